/* Recipes: the options of a run, from a file or from those built in.
 *
 * The rows are recipe/options.def; the program joins them with the arguments of its verbs into one table, the
 * library's trainer takes them alone.  The recipes built in are the files of recipes/, by their names without ".ini".
 */
#ifndef ML_RECIPE_RECIPE_H
#define ML_RECIPE_RECIPE_H

#include "base/options.h"

extern const ml_option_row ml_recipe_rows[];
extern const size_t ml_recipe_n_rows;

/* Read the recipe at a path, or else the one built in under that name, into `o`: ML_EINVAL with the nearest name when
 * it is neither, and as ml_options_parse_ini says. */
ml_status ml_recipe_read(ml_options *o, const char *recipe, ml_error *err);
/* Whether section `sweep` names runs: such a recipe is trained several times. */
bool ml_recipe_is_sweep(const ml_options *o);

typedef struct {
    const char *name, *text;
} ml_builtin_recipe;

/* Written from recipes/ by cmake/embed_recipes.cmake; ends with a NULL name. */
extern const ml_builtin_recipe ml_builtin_recipes[];

#endif
