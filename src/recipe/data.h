/* The data of a recipe: found where it exists, built where it does not.
 *
 *   <data.dir>/data.ini      section `data` as it was when the folder was begun
 *   <data.dir>/text.txt      generated, unless data.text names files or data.source what is there
 *   <data.dir>/tokenizer/    trained on it, or a copy of data.tokenizer
 *   <data.dir>/tokens/       meta.json and the shards (data/dataset.h)
 *
 * A folder that `moonlight data build` made (meta.json in data.dir itself) is taken as it is; data.tokenizer then names
 * the tokenizer it was made with.  Data that were built as other options of section `data` asked are refused, never
 * used in silence (recipe/data_record.h). */
#ifndef ML_RECIPE_DATA_H
#define ML_RECIPE_DATA_H

#include "base/log.h"
#include "base/options.h"
#include "data/dataset.h"
#include "token/tokenizer.h"

typedef struct {
    const ml_options *o;
    const char *dir;
    char record[ML_PATH_MAX], text[ML_PATH_MAX], tokenizer_path[ML_PATH_MAX], tokens[ML_PATH_MAX];
    bool is_built;           /* all of it */
    bool is_foreign;         /* by `moonlight data build` */
    ml_tokenizer *tokenizer; /* the given one or the folder's; NULL until one is trained */
    ml_dataset *set;         /* NULL until prepared */
} ml_recipe_data;

/* Look at what is there, from section `data`; writes nothing.  Refuses what could not be built or used.  `out` needs
 * ml_recipe_data_free also after a failure; `o` must outlive it. */
ml_status ml_recipe_data_find(const ml_options *o, ml_recipe_data *out, ml_error *err);
/* Build what is missing and open the rest.  Tells the listener what it does; what an interruption left is used or
 * continued.  ML_ECANCEL when the listener or a signal stops it. */
ml_status ml_recipe_data_prepare(ml_recipe_data *d, const ml_listener *listener, ml_error *err);
void ml_recipe_data_free(ml_recipe_data *d);

#endif
