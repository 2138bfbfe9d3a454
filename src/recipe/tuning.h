/* What the stages that tune a model share: the model they begin with, its tokenizer, and rows.
 *
 *   <data.dir>/data.ini                section `data` as it was when the folder was begun
 *   <data.dir>/train.jsonl val.jsonl chats_train.jsonl chats_val.jsonl
 *                                      generated, unless data.text names files or data.source what is there
 *   <data.dir>/rows/                   data/rows.h
 *   <data.dir>/reference_*.json        what frozen references said of the pairs (train/dpo.h)
 *
 * A folder that `moonlight data build --kind ...` made (meta.json in data.dir itself) is taken as it is. */
#ifndef ML_RECIPE_TUNING_H
#define ML_RECIPE_TUNING_H

#include "data/row_make.h"
#include "recipe/stage.h"

typedef struct {
    const ml_options *o;
    ml_row_form form; /* of rows that are built */
    const char *dir;
    char record[ML_PATH_MAX], rows_path[ML_PATH_MAX];
    char model[ML_PATH_MAX]; /* that init.from means */
    bool is_built, is_foreign;
    ml_config config; /* of the model, with what section `model` changes about training */
    ml_tokenizer *tokenizer;
    ml_rows *rows; /* NULL until prepared */
} ml_recipe_tuning;

/* Look at what is there; writes nothing.  `out` needs ml_recipe_tuning_free also after a failure. */
ml_status ml_recipe_tuning_find(const ml_options *o, ml_row_form form, ml_recipe_tuning *out, ml_error *err);
/* Build the rows if they are missing, and open them. */
ml_status ml_recipe_tuning_prepare(ml_recipe_tuning *t, const ml_listener *listener, ml_error *err);
void ml_recipe_tuning_free(ml_recipe_tuning *t);
/* Read the weights that tuning begins with. */
ml_status ml_recipe_tuning_fill(const ml_recipe_tuning *t, ml_model *model, ml_error *err);

/* The same model as its file has it, for an adapter; stays the caller's. */
ml_status ml_recipe_tuning_bind(const ml_recipe_tuning *t, ml_model **out, ml_error *err);

/* Where train.epochs says how long: the schedule of as many steps.  `rows_per_step` rows or pairs.  Tells the listener
 * how much the run learns. */
ml_status ml_recipe_tuning_schedule(const ml_recipe_tuning *t, const ml_listener *listener, int64_t rows_per_step,
                                    ml_train_config *config, ml_error *err);

#endif
