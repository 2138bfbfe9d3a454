#include "recipe/recipe.h"

#include "base/nearest.h"
#include "base/option_rows.h"

#include <string.h>

const ml_option_row ml_recipe_rows[] = {
#include "recipe/options.def"
};

const size_t ml_recipe_n_rows = sizeof ml_recipe_rows / sizeof *ml_recipe_rows;

static ml_status fail_unknown(const char *recipe, ml_error *err)
{
    ml_nearest nearest = ml_nearest_begin(recipe);
    for (const ml_builtin_recipe *r = ml_builtin_recipes; r->name; r++) ml_nearest_offer(&nearest, r->name);
    return ml_fail(err, ML_EINVAL, "there is no file and no built-in recipe \"%.100s\"%s%s%s", recipe,
                   nearest.best ? "; did you mean " : ": expected the path of an INI file, or a name like ",
                   nearest.best ? nearest.best : ml_builtin_recipes[0].name, nearest.best ? "?" : "");
}

ml_status ml_recipe_read(ml_options *o, const char *recipe, ml_error *err)
{
    char origin[128];
    /* What looks like a path is one, and the error of a missing file names it. */
    if (strpbrk(recipe, "/.") || (ml_path_exists(recipe) && !ml_path_is_dir(recipe))) {
        return ml_options_parse_ini(o, recipe, err);
    }
    for (const ml_builtin_recipe *r = ml_builtin_recipes; r->name; r++) {
        if (strcmp(r->name, recipe) != 0) continue;
        snprintf(origin, sizeof origin, "%s (built in)", recipe);
        return ml_options_parse_ini_text(o, origin, r->text, strlen(r->text), err);
    }
    return fail_unknown(recipe, err);
}

bool ml_recipe_is_sweep(const ml_options *o)
{
    const char *const *run;
    if (!ml_options_has(o, "sweep", "run")) return false;
    size_t n = ml_options_list(o, "sweep.run", &run);
    return n > 0 && *run[n - 1];
}
