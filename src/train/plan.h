/* The memory plan: what a training run will hold, known before anything large is allocated. */
#ifndef ML_TRAIN_PLAN_H
#define ML_TRAIN_PLAN_H

#include "model/adapter.h"
#include "model/place.h"
#include "optim/optimizer.h"

typedef struct {
    int64_t weights, gradients, optimizer; /* bytes; optimizer: moments and scratch */
    int64_t activations;                   /* kept for the backward, and the largest operator's scratch */
    int64_t activation_gradients;          /* of one layer and the ends */
    int64_t samples;                       /* on a device: while they are made */
    int64_t total;
    int64_t host; /* of a device's plan: bytes of this machine's memory beside these, the copy of the weights that files
                     are read into and written from, and what lies in pinned memory */
} ml_train_plan;

/* "off", "on", "attention", "mlp" -> what is meant; ML_RECOMPUTE_OFF for other words. */
ml_recompute ml_train_parse_recompute(const char *name);

/* An upper bound, with the present number of threads, for micro-steps of `tokens` tokens; `muon`: one fp32 moment for
 * the matrices instead of two. */
ml_train_plan ml_train_make_plan(const ml_config *config, int64_t tokens, bool muon, ml_recompute recompute);

/* How a model lies on a device (model/place.h, optim/optimizer.h). */
typedef struct {
    ml_precision precision;
    ml_placing placing;
    ml_optim_storage moments;
} ml_device_plan_choice;

/* The same on a device: an upper bound of its memory.  What is kept twice in scratch is counted as the plain kernels
 * and those with bf16 copies of their operands have it. */
ml_train_plan ml_train_make_device_plan(const ml_config *config, int64_t tokens, const ml_optim_config *optim,
                                        ml_recompute recompute, const ml_device_plan_choice *choice);

/* The first way that fits into available bytes of the device and host bytes here: plainly; in halves; in halves with
 * the optimizer's state here.  In fp32 there are no halves.  All give the same bits.  The last when none fits. */
ml_device_plan_choice ml_train_choose_place(const ml_config *config, int64_t tokens, const ml_optim_config *optim,
                                            ml_recompute recompute, ml_precision precision, bool bf16_moments,
                                            int64_t available, int64_t host);

/* The largest weights that one operator reads together, as fp32. */
int64_t ml_train_widest_bytes(const ml_config *config);
/* Scratch and activations of a forward pass alone, on a device, with weights of any type. */
int64_t ml_train_plan_device_pass(const ml_config *config, int64_t tokens, ml_precision precision);

/* An adapter, for its plan on a device, and the model that stays beside it. */
typedef struct {
    int64_t n_param, rank; /* the largest rank */
    int64_t weight_bytes;  /* of the model, as it is stored */
    bool dora;
} ml_adapter_facts;
ml_adapter_facts ml_train_get_adapter_facts(const ml_adapter *a);
/* As ml_train_make_device_plan, of an adapter: its numbers, gradients and moments, and the model's weights in the types
 * they have, of which those of one operator at a time are converted in scratch. */
ml_train_plan ml_train_make_adapter_device_plan(const ml_config *config, int64_t tokens, const ml_optim_config *optim,
                                                ml_recompute recompute, const ml_device_plan_choice *choice,
                                                const ml_adapter_facts *adapter);

/* Ways to lie on a device, by name: "plain", "split", "host". */
enum { ML_N_PLACE_WAY = 3 };
const char *ml_train_place_way_name(int way);
ml_device_plan_choice ml_train_place_way(int way, ml_precision precision, bool bf16_moments);

/* As ml_train_check_plan, of a device with that much memory, and a machine that has `host` bytes for it. */
ml_status ml_train_check_device_plan(const ml_train_plan *plan, int64_t available, int64_t host, int64_t batch,
                                     ml_recompute recompute, const ml_device_plan_choice *choice, ml_error *err);

/* Change a plan of a model to that of an adapter of n_param numbers beside it, whose own weights take weight_bytes and
 * have neither gradients nor moments. */
void ml_train_plan_adapter(ml_train_plan *plan, const ml_config *config, int64_t n_param, int64_t weight_bytes,
                           bool dora, int64_t tokens, ml_recompute recompute);

/* ML_ENOMEM, with what to change, when the plan needs more than `available` bytes. */
ml_status ml_train_check_plan(const ml_train_plan *plan, int64_t available, int64_t batch, ml_recompute recompute,
                              ml_error *err);

/* One line per item, "weights 43.2 MB ..."; returns the number of bytes written to `text`. */
int ml_train_format_plan(const ml_train_plan *plan, char *text, size_t size);

#endif
