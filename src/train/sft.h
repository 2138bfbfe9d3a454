/* Supervised fine-tuning: rows of a folder, cross-entropy over what is learned of them. */
#ifndef ML_TRAIN_SFT_H
#define ML_TRAIN_SFT_H

#include "train/loop.h"
#include "train/row_feed.h"

typedef struct ml_sft ml_sft;

/* `rows` must outlive the stage; ML_EINVAL when they are pairs. */
ml_status ml_sft_make(const ml_rows *rows, const ml_row_feed_config *config, ml_sft **out, ml_error *err);
void ml_sft_free(ml_sft *s);
/* The stage to hand to the loop; lives as long as s. */
const ml_stage *ml_sft_stage(ml_sft *s);

#endif
