/* The optimizer's configuration: defaults, ranges, kinds of parameters and the group each belongs to. */
#include "optim/optimizer_internal.h"

#include <string.h>

static const char *const KIND_NAME[ML_N_PARAM_KIND] = {
    [ML_PARAM_EMBEDDING] = "embedding", [ML_PARAM_HEAD] = "head",     [ML_PARAM_NORM] = "norm",
    [ML_PARAM_BIAS] = "bias",           [ML_PARAM_ROUTER] = "router", [ML_PARAM_MATRIX] = "matrix",
    [ML_PARAM_EXPERT] = "expert",       [ML_PARAM_LORA_A] = "lora_a", [ML_PARAM_LORA_B] = "lora_b",
    [ML_PARAM_MAGNITUDE] = "magnitude",
};

static const char *const GROUP_NAME[ML_N_OPTIM_GROUP] = {
    [ML_GROUP_MUON] = "muon",
    [ML_GROUP_MUON_NO_DECAY] = "muon, no decay",
    [ML_GROUP_ADAMW] = "adamw",
    [ML_GROUP_ADAMW_NO_DECAY] = "adamw, no decay",
};

ml_optim_config ml_optim_default_config(ml_optim_name name)
{
    return (ml_optim_config){
        .name = name,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .weight_decay = 0.1,
        .momentum = 0.95,
        .nesterov = true,
        .ns_steps = 5,
        .rms_scale = 0.2,
        .muon = ML_KIND_BIT(ML_PARAM_MATRIX) | ML_KIND_BIT(ML_PARAM_EXPERT) | ML_KIND_BIT(ML_PARAM_ROUTER),
    };
}

const char *ml_param_kind_name(ml_param_kind kind)
{
    return KIND_NAME[kind];
}

const char *ml_optim_group_name(ml_optim_group group)
{
    return GROUP_NAME[group];
}

static ml_status parse_kind(const char *word, size_t n, ml_param_kinds *kinds, ml_error *err)
{
    if (n == 4 && memcmp(word, "none", n) == 0) return ML_OK;
    for (int kind = 0; kind < ML_N_PARAM_KIND; kind++) {
        if (strlen(KIND_NAME[kind]) != n || memcmp(KIND_NAME[kind], word, n) != 0) continue;
        *kinds |= ML_KIND_BIT(kind);
        return ML_OK;
    }
    return ml_fail(err, ML_EINVAL,
                   "\"%.*s\" is no kind of parameter; expected a list of embedding, head, norm, bias, router, matrix, "
                   "expert, lora_a, lora_b, magnitude, or none",
                   (int)(n < 40 ? n : 40), word);
}

ml_status ml_optim_parse_kinds(const char *list, ml_param_kinds *kinds, ml_error *err)
{
    ml_param_kinds found = 0;
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ", \t");
        if (n > 0) ML_TRY(parse_kind(at, n, &found, err));
        at += n;
        at += strspn(at, ", \t");
    }
    *kinds = found;
    return ML_OK;
}

static ml_status check_range(const char *key, double value, double low, double high, ml_error *err)
{
    if (value >= low && value <= high) return ML_OK;
    return ml_fail(err, ML_EINVAL, "optimizer: %s is %g, expected a number from %g to %g", key, value, low, high);
}

ml_status ml_optim_check_config(const ml_optim_config *c, ml_error *err)
{
    const double below_one = 1.0 - 1e-9;
    ML_TRY(check_range("beta1", c->beta1, 0.0, below_one, err));
    ML_TRY(check_range("beta2", c->beta2, 0.0, below_one, err));
    ML_TRY(check_range("eps", c->eps, 0.0, 1.0, err));
    ML_TRY(check_range("weight_decay", c->weight_decay, 0.0, 1e3, err));
    ML_TRY(check_range("momentum", c->momentum, 0.0, below_one, err));
    ML_TRY(check_range("ns_steps", c->ns_steps, 1, 100, err));
    ML_TRY(check_range("lora_b_ratio", c->lora_b_ratio, 0.0, 1e6, err));
    return check_range("rms_scale", c->rms_scale, 0.0, 1e3, err);
}

ml_optim_group ml_optim_choose_group(const ml_optim_config *c, ml_param_kind kind)
{
    bool decay = !(c->no_decay & ML_KIND_BIT(kind));
    if (c->name == ML_OPTIM_MUON && (c->muon & ML_KIND_BIT(kind)))
        return decay ? ML_GROUP_MUON : ML_GROUP_MUON_NO_DECAY;
    return decay ? ML_GROUP_ADAMW : ML_GROUP_ADAMW_NO_DECAY;
}

double ml_optim_get_ratio(const ml_optim_config *c, ml_param_kind kind)
{
    return kind == ML_PARAM_LORA_B && c->lora_b_ratio > 0 ? c->lora_b_ratio : 1.0;
}

bool ml_optim_is_muon(ml_optim_group group)
{
    return group == ML_GROUP_MUON || group == ML_GROUP_MUON_NO_DECAY;
}

double ml_optim_get_decay(const ml_optim_config *c, ml_optim_group group)
{
    return group == ML_GROUP_MUON || group == ML_GROUP_ADAMW ? c->weight_decay : 0.0;
}
