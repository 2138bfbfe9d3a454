/* What a stage of training adds to the common course of a run (trainer.c): a file of this folder each.
 *
 *   check    read the stage's own options, look at what is there          config, without writing anything
 *   prepare  build what is missing                                        config, tokenizer, stage
 *   init     the weights that a fresh run begins with                     model (with an adapter not called)
 *   free     what prepare and check made, of a run that came however far
 *
 * Steps, checkpoints, logs, resuming and stopping are the loop's (train/loop.h). */
#ifndef ML_RECIPE_STAGE_H
#define ML_RECIPE_STAGE_H

#include "base/log.h"
#include "base/options.h"
#include "train/loop.h"

/* One run of a recipe. */
typedef struct {
    const ml_options *o; /* effective */
    const ml_listener *listener;
    ml_train_config train;

    /* The stage fills these. */
    void *self;
    int64_t n_frozen;              /* fp32 numbers held beside the model, for the memory plan */
    ml_config config;              /* of the model; after check only as far as known without the tokenizer */
    const ml_tokenizer *tokenizer; /* for checkpoints and samples */
    const ml_stage *stage;         /* for the loop */

    bool has_adapter; /* section adapter asks for one; known before check */
    ml_adapter_config adapter_config;
    ml_adapter *adapter; /* what is trained then */

    ml_model *model; /* trainable, exists from init on; with an adapter the model beside it, from check on */
} ml_recipe_run;

typedef struct {
    const char *name; /* the verb: scope of its options */
    ml_status (*check)(ml_recipe_run *r, ml_error *err);
    ml_status (*prepare)(ml_recipe_run *r, ml_error *err); /* may be called again after a failure */
    ml_status (*init)(ml_recipe_run *r, ml_error *err);
    void (*free)(ml_recipe_run *r);
} ml_recipe_stage;

extern const ml_recipe_stage ml_recipe_pretrain, ml_recipe_sft, ml_recipe_dpo;

#endif
