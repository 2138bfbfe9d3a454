#include "format/hf_names.h"

#include <stdio.h>
#include <string.h>

ml_hf_tensor ml_hf_stored_as(const char *class_name, const char *name, int n_dim, const int64_t *dim)
{
    ml_hf_tensor s = { .n_dim = n_dim, .dim = { dim[0], n_dim > 1 ? dim[1] : 1 } };
    const char *bias = strstr(name, ".gate.e_score_correction_bias");
    if (bias && !strcmp(class_name, "Ernie4_5_MoeForCausalLM")) {
        snprintf(s.name, sizeof s.name, "%.*s.moe_statics.e_score_correction_bias", (int)(bias - name), name);
        s.n_dim = 2;
        s.dim[1] = s.dim[0];
        s.dim[0] = 1;
    } else {
        snprintf(s.name, sizeof s.name, "%s", name);
    }
    return s;
}

bool ml_hf_class_has_bias(const char *class_name)
{
    return !strcmp(class_name, "DeepseekV3ForCausalLM") || !strcmp(class_name, "Ernie4_5_MoeForCausalLM") ||
           !strcmp(class_name, "Glm4MoeForCausalLM");
}
