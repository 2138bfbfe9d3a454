/* data.source of a recipe: the mixture that it names, where its files are there. */
#ifndef ML_RECIPE_SOURCES_H
#define ML_RECIPE_SOURCES_H

#include "base/json.h"
#include "base/log.h"
#include "base/options.h"
#include "data/source_list.h"

/* The sources to build from; an empty list when the recipe names none, names data.text as well, or one of them is not
 * there: then the listener is told which, and that built-in data take their place. */
ml_status ml_recipe_sources_open(const ml_options *o, const ml_listener *listener, ml_source_list *out, ml_error *err);
/* Tell what each gave, a line for each. */
void ml_recipe_sources_say(const json_t *sources, const ml_listener *listener);

#endif
