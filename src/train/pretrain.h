/* The pretraining stage: windows of a data folder, every token a target. */
#ifndef ML_TRAIN_PRETRAIN_H
#define ML_TRAIN_PRETRAIN_H

#include "data/loader.h"
#include "train/loop.h"

typedef struct ml_pretrain ml_pretrain;

typedef struct {
    int64_t batch, seq;
    bool cross_documents;
    uint64_t seed;        /* of the order */
    int64_t eval_windows; /* of the validation split, from its start; fewer when it is shorter; 0: no evaluation */
} ml_pretrain_config;

/* `data` must outlive the stage. */
ml_status ml_pretrain_make(const ml_dataset *data, const ml_pretrain_config *config, ml_pretrain **out, ml_error *err);
void ml_pretrain_free(ml_pretrain *p);
/* The stage to hand to the loop; lives as long as p. */
const ml_stage *ml_pretrain_stage(ml_pretrain *p);
/* Windows in one pass over the training split. */
int64_t ml_pretrain_n_window(const ml_pretrain *p);

#endif
