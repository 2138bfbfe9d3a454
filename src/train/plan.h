/* The memory plan: what a training run will hold, known before anything large is allocated. */
#ifndef ML_TRAIN_PLAN_H
#define ML_TRAIN_PLAN_H

#include "model/model.h"

typedef struct {
    int64_t weights, gradients, optimizer; /* bytes; optimizer: moments and scratch */
    int64_t activations;                   /* kept for the backward, and the largest operator's scratch */
    int64_t activation_gradients;          /* of one layer and the ends */
    int64_t total;
} ml_train_plan;

/* An upper bound, with the present number of threads, for micro-steps of `tokens` tokens; `muon`: one fp32 moment for
 * the matrices instead of two. */
ml_train_plan ml_train_make_plan(const ml_config *config, int64_t tokens, bool muon, bool recompute);

/* Bytes beyond the plan's activations that operators on a device use as scratch: an upper bound. */
int64_t ml_train_plan_device_scratch(const ml_config *config, int64_t tokens);

/* ML_ENOMEM, with what to change, when the plan needs more than `available` bytes. */
ml_status ml_train_check_plan(const ml_train_plan *plan, int64_t available, int64_t batch, bool recompute,
                              ml_error *err);

/* One line per item, "weights 43.2 MB ..."; returns the number of bytes written to `text`. */
int ml_train_format_plan(const ml_train_plan *plan, char *text, size_t size);

#endif
