/* What a stage's loss adds up where it is made on a device. */
#ifndef ML_TRAIN_STAGE_SUMS_H
#define ML_TRAIN_STAGE_SUMS_H

enum { ML_STAGE_MAX_FIGURES = 8 };

typedef struct {
    double loss;                     /* not yet divided */
    double of[ML_STAGE_MAX_FIGURES]; /* the stage's own: what its figures are made of */
} ml_stage_sums;

#endif
