/* What several adapters' terms have at most. */
#include "model/adapter.h"

ml_status ml_adapter_shape_make(int64_t n_layer, ml_adapter_shape *out, ml_error *err)
{
    *out = (ml_adapter_shape){ .n_layer = n_layer,
                               .rank = ml_calloc((size_t)n_layer, sizeof *out->rank),
                               .scales = ml_calloc((size_t)n_layer, sizeof *out->scales) };
    if (out->rank && out->scales) return ML_OK;
    ml_adapter_shape_free(out);
    return ml_fail_memory(err, (size_t)n_layer * sizeof *out->rank, "what adapters' terms have");
}

void ml_adapter_shape_free(ml_adapter_shape *shape)
{
    ml_free(shape->rank);
    ml_free(shape->scales);
    *shape = (ml_adapter_shape){ 0 };
}

bool ml_adapter_shape_add(ml_adapter_shape *shape, const ml_adapter *a)
{
    bool grew = false;
    for (size_t i = 0; a && i < a->n_term; i++) {
        const ml_adapter_term *t = &a->term[i];
        int64_t *rank = &shape->rank[t->module.layer][t->module.slot];
        bool *scales = &shape->scales[t->module.layer][t->module.slot];
        grew = grew || t->rank > *rank || (a->dora && !*scales);
        if (t->rank > *rank) *rank = t->rank;
        *scales = *scales || a->dora;
    }
    return grew;
}
