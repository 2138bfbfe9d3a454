/* Adapters on disk, as the PEFT library keeps them:
 *
 *   adapter_config.json         {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": false, ...}
 *   adapter_model.safetensors   base_model.model.<module>.lora_A.weight [rank, cols], .lora_B.weight [rows, rank],
 *                               with DoRA .lora_magnitude_vector [rows]; each expert its own
 *
 * What is read may be another program's: ranks and alphas may differ from module to module (rank_pattern,
 * alpha_pattern), scaling may be by the root of the rank (use_rslora).  What would change the model otherwise (biases,
 * whole modules, parameters of other kinds) is refused, and so is a tensor that the model has no place for. */
#ifndef ML_FORMAT_PEFT_H
#define ML_FORMAT_PEFT_H

#include "format/manifest.h"
#include "model/adapter.h"

/* Write both files into the folder of `manifest` (not committed), values rounded to `dtype`.  `base` (may be NULL) is
 * what the model is called. */
ml_status ml_peft_save(const ml_adapter *a, ml_dtype dtype, const char *base, ml_manifest *manifest, ml_error *err);
/* Bytes that will write, about. */
uint64_t ml_peft_save_bytes(const ml_adapter *a);
/* Read an adapter of `m` for inference; where `m` is on a device, it is to be placed there (ml_adapter_place), which
 * makes the norms of DoRA.  ML_EINVAL when it is another model's, naming the first module or shape that
 * does not fit; ML_EFORMAT when it is damaged. */
ml_status ml_peft_load(const char *folder, const ml_model *m, ml_adapter **out, ml_error *err);
/* Bytes that it takes on a device, for memory plans before there is a model. */
ml_status ml_peft_measure(const char *folder, const ml_config *model, int64_t *n_bytes, ml_error *err);
/* Values of an adapter that has the same terms, as a resumed run does. */
ml_status ml_peft_fill(ml_adapter *a, const char *folder, ml_error *err);

#endif
