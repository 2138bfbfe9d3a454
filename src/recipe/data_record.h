/* With which options a data folder was built, and whether a recipe asks for the same.
 *
 * The record is <data.dir>/data.ini, the section `data` of the recipe that began the folder.  A folder without it is
 * judged by what meta.json says.  Only options that decided about a part that exists count, so that removing a part is
 * enough to have it built otherwise. */
#ifndef ML_RECIPE_DATA_RECORD_H
#define ML_RECIPE_DATA_RECORD_H

#include "recipe/data.h"

/* ML_EINVAL naming the first option that differs, both values and the remedy.  In a foreign folder only options of the
 * command line count: a recipe's are for data that it builds itself. */
ml_status ml_recipe_data_check_record(const ml_recipe_data *d, ml_error *err);
/* Before the first part is built. */
ml_status ml_recipe_data_write_record(const ml_recipe_data *d, ml_error *err);

#endif
