/* The architecture in GGUF metadata.
 *
 * `general.architecture` is deepseek2 (multi-head latent attention: DeepSeek-V2 and V3, Moonlight), llama, qwen2,
 * qwen3, ernie4_5-moe or glm4moe; the other keys begin with that name.  What no key says the tensors do: rows of the
 * vocabulary, an output of its own, biases and norms of q and k, a bias that chooses experts.
 *
 * Four facts are told in another way there, or in keys of our own, which llama.cpp ignores:
 *   - llama keeps the rows of q and k in the order of interleaved pairs: rope_interleaved is 1 for it.
 *   - llama.cpp uses one epsilon for all norms, while the published DeepSeek classes use 1e-6 for the two of the
 *     latent.  Our own key `moonlight.latent_norm_epsilon`, which llama.cpp ignores, holds it where it differs; a file
 *     without that key means what llama.cpp computes.
 *   - Llama 3's scaling of frequencies is a tensor of what each is divided by, `rope_freqs.weight`.  What it was made
 *     from is in our own key `moonlight.llama3_rope` (factor, low and high factor, trained positions); without the
 *     key, the numbers of the published models (1, 4, 8192) must give that tensor.
 *   - YaRN's mscale is taken there to be mscale_all_dim; where they differ, `moonlight.yarn_mscale` holds both.
 *   - Groups of experts are ranked there by the sum of the two best; `moonlight.expert_group_by_best` says that
 *     the best alone counts (DeepSeek-V2).  llama.cpp then chooses other experts for some tokens. */
#ifndef ML_FORMAT_GGUF_CONFIG_H
#define ML_FORMAT_GGUF_CONFIG_H

#include "format/gguf.h"
#include "format/gguf_arch.h"
#include "model/config.h"

#define ML_GGUF_LATENT_EPSILON_KEY "moonlight.latent_norm_epsilon"
#define ML_GGUF_LLAMA3_KEY "moonlight.llama3_rope"
#define ML_GGUF_YARN_KEY "moonlight.yarn_mscale"
#define ML_GGUF_GROUP_KEY "moonlight.expert_group_by_best"

/* ML_EFORMAT for keys that are missing or damaged, ML_EINVAL naming an architecture or key value that this program
 * does not run. */
ml_status ml_gguf_config(const ml_gguf *g, ml_config *out, ml_error *err);

/* The architecture that expresses a model; ML_EINVAL with the reason when none does.  *pair_rows: it has the rows of q
 * and k interleaved, while this configuration rotates halves. */
ml_status ml_gguf_arch_for(const ml_config *c, const ml_gguf_arch **arch, bool *pair_rows, ml_error *err);
/* Set the keys that llama.cpp and ml_gguf_config read, all of them also where they say what a reader would assume. */
ml_status ml_gguf_put_config(ml_gguf_writer *w, const ml_config *c, const ml_gguf_arch *arch, ml_error *err);

#endif
