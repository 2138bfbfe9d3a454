#include "infer/open.h"

#include "format/find.h"
#include "format/source.h"
#include "infer/fit.h"
#include "infer/session.h"

ml_status ml_model_open_within(const char *path, const ml_memory_budget *budget, ml_model **out, ml_error *err)
{
    char found[ML_PATH_MAX];
    ml_config config;
    ml_weight_source *source;
    *out = NULL;
    ML_TRY(ml_model_find(path, found, err));
    ML_TRY(ml_weight_source_open(found, &config, &source, err));
    ml_status status = ml_fit_check(found, &config, source, budget, err);
    if (status == ML_OK) status = ml_model_bind(&config, source, out, err);
    if (status != ML_OK) source->free(source);
    return status;
}

ml_status ml_model_open(const char *path, ml_model **out, ml_error *err)
{
    const ml_memory_budget usual = { .kv_dtype = ML_SESSION_KV };
    return ml_model_open_within(path, &usual, out, err);
}

const char *ml_model_get_device(const ml_model *m)
{
    return m->device_choice[0] ? m->device_choice : "cpu";
}

ml_model_info ml_model_get_info(const ml_model *m)
{
    const ml_config *c = &m->config;
    ml_param_counts n = ml_model_count(c);
    bool moe = c->n_routed_experts > 0 && c->first_k_dense_replace < c->num_hidden_layers;
    return (ml_model_info){ .class_name = ml_config_class_name(c),
                            .n_params = n.total,
                            .n_params_active = n.active,
                            .n_layer = c->num_hidden_layers,
                            .d_model = c->hidden_size,
                            .n_vocab = c->vocab_size,
                            .n_position = c->max_position_embeddings,
                            .bos_id = (int32_t)c->bos_token_id,
                            .eos_id = (int32_t)c->eos_token_id,
                            .n_expert = moe ? (int32_t)c->n_routed_experts : 0,
                            .top_k = moe ? (int32_t)c->num_experts_per_tok : 0 };
}
