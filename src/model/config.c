/* The field table, overrides and checks.  Presets are in config_presets.c, config.json is in config_json.c. */
#include "model/config.h"

#include "model/config_fields.h"

#include "base/nearest.h"
#include "ops/ops.h"
#include "token/chat.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define INT(name_)                                                                                                     \
    {                                                                                                                  \
#name_, offsetof(ml_config, name_), ML_FIELD_INT, NULL, true                                                   \
    }
#define BOOL(name_)                                                                                                    \
    {                                                                                                                  \
#name_, offsetof(ml_config, name_), ML_FIELD_BOOL, NULL, true                                                  \
    }
#define REAL(name_)                                                                                                    \
    {                                                                                                                  \
#name_, offsetof(ml_config, name_), ML_FIELD_REAL, NULL, true                                                  \
    }
#define CHOICE(name_, words_)                                                                                          \
    {                                                                                                                  \
#name_, offsetof(ml_config, name_), ML_FIELD_CHOICE, words_, true                                              \
    }

static const char *const attention_words[] = { "gqa", "mla", NULL };
static const char *const score_words[] = { "softmax", "sigmoid", NULL };
static const char *const balance_words[] = { "none", "switch", "sequence", NULL };
static const char *const init_words[] = { "normal", "he", "truncated", NULL };

const ml_config_field ml_config_fields[] = {
    INT(vocab_size),
    INT(hidden_size),
    INT(num_hidden_layers),
    INT(max_position_embeddings),
    INT(num_attention_heads),
    INT(num_key_value_heads),
    CHOICE(attention, attention_words),
    INT(head_dim),
    INT(q_lora_rank),
    INT(kv_lora_rank),
    INT(qk_nope_head_dim),
    INT(qk_rope_head_dim),
    INT(v_head_dim),
    BOOL(attention_bias),
    BOOL(qk_norm),
    BOOL(tie_word_embeddings),
    BOOL(head_bias),
    REAL(rms_norm_eps),
    REAL(latent_norm_eps),
    REAL(rope_theta),
    INT(rotary_dim),
    BOOL(rope_interleaved),
    REAL(yarn_factor),
    INT(yarn_original_positions),
    REAL(yarn_beta_fast),
    REAL(yarn_beta_slow),
    REAL(yarn_mscale),
    REAL(yarn_mscale_all_dim),
    REAL(llama3_factor),
    INT(llama3_original_positions),
    REAL(llama3_low_freq_factor),
    REAL(llama3_high_freq_factor),
    INT(intermediate_size),
    INT(first_k_dense_replace),
    INT(n_routed_experts),
    INT(num_experts_per_tok),
    INT(moe_intermediate_size),
    INT(n_shared_experts),
    REAL(shared_scale),
    CHOICE(scoring, score_words),
    BOOL(norm_topk_prob),
    REAL(routed_scaling_factor),
    INT(n_group),
    INT(topk_group),
    BOOL(group_by_best),
    BOOL(correction_bias),
    BOOL(expert_relu),
    { "balance", offsetof(ml_config, balance), ML_FIELD_CHOICE, balance_words, false },
    { "balance_coef", offsetof(ml_config, balance_coef), ML_FIELD_REAL, NULL, false },
    { "z_coef", offsetof(ml_config, z_coef), ML_FIELD_REAL, NULL, false },
    { "aux_mean", offsetof(ml_config, aux_mean), ML_FIELD_BOOL, NULL, false },
    { "bias_update_rate", offsetof(ml_config, bias_update_rate), ML_FIELD_REAL, NULL, false },
    { "capacity_factor", offsetof(ml_config, capacity_factor), ML_FIELD_REAL, NULL, false },
    { "init", offsetof(ml_config, init), ML_FIELD_CHOICE, init_words, false },
    { "initializer_range", offsetof(ml_config, initializer_range), ML_FIELD_REAL, NULL, false },
    { "bos_token_id", offsetof(ml_config, bos_token_id), ML_FIELD_INT, NULL, false },
    { "eos_token_id", offsetof(ml_config, eos_token_id), ML_FIELD_INT, NULL, false },
    { "pad_token_id", offsetof(ml_config, pad_token_id), ML_FIELD_INT, NULL, false },
    { "chat_format", offsetof(ml_config, chat_format), ML_FIELD_CHOICE, ml_chat_words, false },
};
const size_t ml_config_n_field = sizeof ml_config_fields / sizeof ml_config_fields[0];

int64_t *ml_config_field_int(const ml_config *c, const ml_config_field *f)
{
    return (int64_t *)((uintptr_t)c + f->offset);
}

double *ml_config_field_real(const ml_config *c, const ml_config_field *f)
{
    return (double *)((uintptr_t)c + f->offset);
}

bool ml_config_field_equal(const ml_config *a, const ml_config *b, const ml_config_field *f)
{
    if (f->type != ML_FIELD_REAL) return *ml_config_field_int(a, f) == *ml_config_field_int(b, f);
    double x = *ml_config_field_real(a, f), y = *ml_config_field_real(b, f);
    return x == y || fabs(x - y) <= 1e-12 * fabs(x); /* JSON text keeps 17 digits */
}

bool ml_config_same_model(const ml_config *a, const ml_config *b, const char **field)
{
    for (size_t i = 0; i < ml_config_n_field; i++) {
        const ml_config_field *f = &ml_config_fields[i];
        if (!f->architecture || ml_config_field_equal(a, b, f)) continue;
        if (field) *field = f->name;
        return false;
    }
    return true;
}

/* What every class and preset starts from: a plain dense transformer without extras. */
void ml_config_blank(ml_config *c)
{
    *c = (ml_config){
        .max_position_embeddings = 2048,
        .rms_norm_eps = 1e-6,
        .latent_norm_eps = 1e-6,
        .rope_theta = 10000,
        .yarn_factor = 1,
        .yarn_beta_fast = 32,
        .yarn_beta_slow = 1,
        .yarn_mscale = 1,
        .llama3_factor = 1,
        .llama3_low_freq_factor = 1,
        .llama3_high_freq_factor = 4,
        .shared_scale = 1,
        .routed_scaling_factor = 1,
        .n_group = 1,
        .topk_group = 1,
        .initializer_range = 0.02,
        .bos_token_id = -1,
        .eos_token_id = -1,
        .pad_token_id = -1,
    };
}

static ml_status set_field(ml_config *c, const ml_config_field *f, const char *value, const char *where, ml_error *err)
{
    char *end;
    errno = 0;
    switch (f->type) {
    case ML_FIELD_REAL: {
        double x = strtod(value, &end);
        if (end == value || *end || !isfinite(x)) break;
        *ml_config_field_real(c, f) = x;
        return ML_OK;
    }
    case ML_FIELD_INT: {
        long long n = strtoll(value, &end, 10);
        if (end == value || *end || errno) break;
        *ml_config_field_int(c, f) = n;
        return ML_OK;
    }
    case ML_FIELD_BOOL:
        if (!strcasecmp(value, "on") || !strcasecmp(value, "true") || !strcmp(value, "1")) {
            *ml_config_field_int(c, f) = 1;
            return ML_OK;
        }
        if (!strcasecmp(value, "off") || !strcasecmp(value, "false") || !strcmp(value, "0")) {
            *ml_config_field_int(c, f) = 0;
            return ML_OK;
        }
        break;
    case ML_FIELD_CHOICE:
        for (int i = 0; f->words[i]; i++) {
            if (strcmp(value, f->words[i])) continue;
            *ml_config_field_int(c, f) = i;
            return ML_OK;
        }
        break;
    }
    static const char *const kinds[] = { "a whole number", "on or off", "a number", NULL };
    char words[128] = "one of";
    for (int i = 0; f->words && f->words[i]; i++) {
        size_t used = strlen(words);
        snprintf(words + used, sizeof words - used, " %s", f->words[i]);
    }
    return ml_fail(err, ML_EINVAL, "%s: model.%s: expected %s, found \"%s\"", where, f->name,
                   f->words ? words : kinds[f->type], value);
}

ml_status ml_config_set(ml_config *c, const char *name, const char *value, const char *where, ml_error *err)
{
    char list[1024] = "";
    ml_nearest nearest = ml_nearest_begin(name);
    for (size_t i = 0; i < ml_config_n_field; i++) {
        if (!strcmp(name, ml_config_fields[i].name)) return set_field(c, &ml_config_fields[i], value, where, err);
        ml_nearest_offer(&nearest, ml_config_fields[i].name);
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", ml_config_fields[i].name);
    }
    if (nearest.best) {
        return ml_fail(err, ML_EINVAL, "%s: there is no key model.%s; did you mean model.%s?", where, name,
                       nearest.best);
    }
    return ml_fail(err, ML_EINVAL, "%s: there is no key model.%s; there are %s", where, name, list);
}

/* One rule: the condition must hold, or the message says which numbers do not fit. */
#define RULE(condition, ...)                                                                                           \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            ml_fail(err, ML_EINVAL, __VA_ARGS__);                                                                      \
            return ml_fail_prefix(err, "%s", where);                                                                   \
        }                                                                                                              \
    } while (0)
#define LL(x) ((long long)(x))

static ml_status check_attention(const ml_config *c, const char *where, ml_error *err)
{
    RULE(c->num_attention_heads > 0 && c->num_attention_heads <= 1 << 14,
         "num_attention_heads: expected 1 to 16384, found %lld", LL(c->num_attention_heads));
    RULE(c->num_key_value_heads > 0 && c->num_attention_heads % c->num_key_value_heads == 0,
         "num_key_value_heads %lld does not divide num_attention_heads %lld", LL(c->num_key_value_heads),
         LL(c->num_attention_heads));
    RULE(c->rotary_dim > 0 && c->rotary_dim % 2 == 0, "rotary_dim: expected an even number above 0, found %lld",
         LL(c->rotary_dim));
    RULE(c->rope_theta > 0 && isfinite(c->rope_theta), "rope_theta: expected a number above 0, found %g",
         c->rope_theta);
    if (c->attention == ML_ATTENTION_MLA) {
        RULE(c->kv_lora_rank > 0 && c->qk_nope_head_dim > 0 && c->qk_rope_head_dim > 0 && c->v_head_dim > 0 &&
                 c->q_lora_rank >= 0 && c->kv_lora_rank <= 1 << 20 && c->q_lora_rank <= 1 << 20 &&
                 c->qk_nope_head_dim <= 1 << 14 && c->qk_rope_head_dim <= 1 << 14 && c->v_head_dim <= 1 << 14,
             "multi-head latent attention needs kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim and v_head_dim above "
             "0; "
             "found %lld, %lld, %lld, %lld",
             LL(c->kv_lora_rank), LL(c->qk_nope_head_dim), LL(c->qk_rope_head_dim), LL(c->v_head_dim));
        RULE(c->rotary_dim == c->qk_rope_head_dim, "rotary_dim %lld differs from qk_rope_head_dim %lld",
             LL(c->rotary_dim), LL(c->qk_rope_head_dim));
        RULE(c->num_key_value_heads == c->num_attention_heads,
             "multi-head latent attention has as many key heads as query heads; found %lld and %lld",
             LL(c->num_key_value_heads), LL(c->num_attention_heads));
    } else {
        RULE(c->head_dim > 0 && c->head_dim <= 1 << 14, "head_dim: expected 1 to 16384, found %lld", LL(c->head_dim));
        RULE(c->rotary_dim <= c->head_dim, "rotary_dim %lld is larger than head_dim %lld", LL(c->rotary_dim),
             LL(c->head_dim));
    }
    RULE(c->yarn_factor >= 1, "yarn_factor: expected at least 1, found %g", c->yarn_factor);
    RULE(c->yarn_factor == 1 || c->yarn_original_positions > 0,
         "yarn_original_positions: YaRN needs the trained number of positions, found %lld",
         LL(c->yarn_original_positions));
    RULE(c->llama3_factor >= 1, "llama3_factor: expected at least 1, found %g", c->llama3_factor);
    RULE(c->llama3_factor == 1 || (c->llama3_original_positions > 0 && c->llama3_low_freq_factor > 0 &&
                                   c->llama3_high_freq_factor > c->llama3_low_freq_factor),
         "Llama 3's scaling needs the trained number of positions and factors 0 < low < high; found %lld, %g, %g",
         LL(c->llama3_original_positions), c->llama3_low_freq_factor, c->llama3_high_freq_factor);
    RULE(c->llama3_factor == 1 || c->yarn_factor == 1, "llama3_factor and yarn_factor: expected one of them");
    return ML_OK;
}

static ml_status check_experts(const ml_config *c, const char *where, ml_error *err)
{
    RULE(c->moe_intermediate_size > 0 && c->moe_intermediate_size <= 1 << 24,
         "moe_intermediate_size: expected 1 to 2^24, found %lld", LL(c->moe_intermediate_size));
    RULE(c->n_routed_experts <= 1 << 16, "n_routed_experts: expected at most 65536, found %lld",
         LL(c->n_routed_experts));
    RULE(c->num_experts_per_tok > 0 && c->num_experts_per_tok <= c->n_routed_experts,
         "num_experts_per_tok %lld is not between 1 and n_routed_experts %lld", LL(c->num_experts_per_tok),
         LL(c->n_routed_experts));
    RULE(c->n_shared_experts >= 0 && c->n_shared_experts <= 1024, "n_shared_experts: expected 0 to 1024, found %lld",
         LL(c->n_shared_experts));
    RULE(c->n_group > 0 && c->n_routed_experts % c->n_group == 0, "n_group %lld does not divide n_routed_experts %lld",
         LL(c->n_group), LL(c->n_routed_experts));
    RULE(c->topk_group > 0 && c->topk_group <= c->n_group, "topk_group %lld is not between 1 and n_group %lld",
         LL(c->topk_group), LL(c->n_group));
    RULE(c->n_routed_experts / c->n_group * c->topk_group >= c->num_experts_per_tok,
         "topk_group %lld groups hold %lld experts, fewer than num_experts_per_tok %lld", LL(c->topk_group),
         LL(c->n_routed_experts / c->n_group * c->topk_group), LL(c->num_experts_per_tok));
    RULE(c->capacity_factor >= 0, "capacity_factor: expected 0 (none) or above, found %g", c->capacity_factor);
    RULE(!(c->expert_relu && c->n_shared_experts), "two-matrix ReLU experts have no shared experts; found %lld",
         LL(c->n_shared_experts));
    return ML_OK;
}

/* A bound on the number of parameters in which nothing can overflow: counts and sizes are int64 after it. */
static double most_parameters(const ml_config *c)
{
    double d = (double)c->hidden_size, heads = (double)c->num_attention_heads;
    double width = (double)(ml_config_d_qk(c) + c->qk_nope_head_dim + ml_config_d_v(c));
    double lora = (double)(c->q_lora_rank + c->kv_lora_rank + c->qk_rope_head_dim);
    double attention = 2 * heads * width * (d + lora + 1) + lora * (d + 1);
    double experts = (double)(c->n_routed_experts + c->n_shared_experts) * 3 * (double)c->moe_intermediate_size * d;
    double layer = attention + experts + 3 * (double)c->intermediate_size * d + (double)c->n_routed_experts * (d + 1);
    return (double)c->num_hidden_layers * (layer + 2 * d) + 2 * (double)c->vocab_size * (d + 1);
}

ml_status ml_config_check(const ml_config *c, const char *where, ml_error *err)
{
    RULE(c->vocab_size > 0 && c->vocab_size <= INT32_MAX, "vocab_size: expected 1 to 2^31-1, found %lld",
         LL(c->vocab_size));
    RULE(c->hidden_size > 0 && c->hidden_size <= 1 << 20, "hidden_size: expected 1 to 2^20, found %lld",
         LL(c->hidden_size));
    RULE(c->num_hidden_layers > 0 && c->num_hidden_layers <= 1 << 12,
         "num_hidden_layers: expected 1 to 4096, found %lld", LL(c->num_hidden_layers));
    RULE(c->max_position_embeddings > 0 && c->max_position_embeddings <= 1 << 30,
         "max_position_embeddings: expected 1 to 2^30, found %lld", LL(c->max_position_embeddings));
    RULE(c->rms_norm_eps > 0, "rms_norm_eps: expected a number above 0, found %g", c->rms_norm_eps);
    RULE(c->latent_norm_eps > 0, "latent_norm_eps: expected a number above 0, found %g", c->latent_norm_eps);
    RULE(c->first_k_dense_replace >= 0 && c->first_k_dense_replace <= c->num_hidden_layers,
         "first_k_dense_replace %lld is not between 0 and num_hidden_layers %lld", LL(c->first_k_dense_replace),
         LL(c->num_hidden_layers));
    bool has_dense = c->n_routed_experts == 0 || c->first_k_dense_replace > 0;
    bool has_moe = c->n_routed_experts > 0 && c->first_k_dense_replace < c->num_hidden_layers;
    RULE(c->n_routed_experts >= 0, "n_routed_experts: expected 0 or more, found %lld", LL(c->n_routed_experts));
    RULE(!has_dense || (c->intermediate_size > 0 && c->intermediate_size <= 1 << 24),
         "intermediate_size: the dense layers need a width from 1 to 2^24, found %lld", LL(c->intermediate_size));
    ML_TRY(check_attention(c, where, err));
    if (has_moe) ML_TRY(check_experts(c, where, err));
    double most = most_parameters(c);
    RULE(most < 1e15, "the numbers of this architecture make some %g parameters, which is no model", most);
    return ML_OK;
}
