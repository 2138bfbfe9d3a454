#include "cli/load.h"

#include "base/alloc.h"
#include "base/log.h"
#include "format/find.h"
#include "infer/session.h"

#include <string.h>

ml_memory_budget ml_cli_budget(const ml_options *o)
{
    return (ml_memory_budget){ .available = (int64_t)(ml_options_real(o, "memory") * 1e9),
                               .kv_dtype = ml_cli_kv_dtype(o),
                               .stream = ml_options_flag(o, "stream"),
                               .offers_stream = true,
                               .device = ml_options_text(o, "device") };
}

ml_memory_budget ml_cli_budget_with_adapters(const ml_options *o)
{
    ml_memory_budget b = ml_cli_budget(o);
    b.n_adapter = ml_options_list(o, "adapter", &b.adapter);
    return b;
}

static void say_weights(const ml_options *o, const ml_model *m)
{
    char text[128];
    bool notable = ml_loaded_describe_weights(m, ml_options_text(o, "repack"), text, sizeof text);
    if (notable || ml_options_given(o, "repack")) ml_log_info("weights: %s", text);
}

void ml_cli_say_opened(const ml_options *o, const ml_model *m)
{
    ml_loaded_tell(m, ml_log_warn);
    if (m->device || ml_options_given(o, "device")) ml_log_info("computes on %s", m->device_choice);
    say_weights(o, m);
}

ml_dtype ml_cli_kv_dtype(const ml_options *o)
{
    ml_dtype dtype = ML_SESSION_KV;
    ml_dtype_parse(ml_options_text(o, "kv-cache-type"), &dtype); /* the option is one of the types */
    return dtype;
}

/* ---- adapters ---- */

static ml_status add_adapter(ml_loaded *m, const char *given, ml_error *err)
{
    char *name;
    const char *path;
    ML_TRY(ml_adapter_split_name(given, &name, &path, err));
    m->adapter_name[m->n_adapter] = name;
    m->n_adapter++; /* its name is freed with the model whatever comes */
    for (size_t i = 0; i + 1 < m->n_adapter; i++) {
        if (strcmp(m->adapter_name[i], name)) continue;
        return ml_fail(err, ML_EINVAL, "--adapter: two are called %s: name one of them, as in NAME=%s", name, path);
    }
    return ml_adapter_open(path, m->model, &m->adapter[m->n_adapter - 1], err);
}

ml_status ml_cli_find_adapter(const ml_loaded *m, const char *name, const ml_adapter **out, ml_error *err)
{
    char names[256] = "";
    *out = &ml_adapter_none;
    if (!strcmp(name, "none")) return ML_OK;
    for (size_t i = 0; i < m->n_adapter; i++) {
        *out = m->adapter[i];
        if (!strcmp(m->adapter_name[i], name)) return ML_OK;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, ", %s", m->adapter_name[i]);
    }
    return ml_fail(err, ML_EINVAL, "there is no adapter \"%.80s\": expected one of none%s", name, names);
}

ml_status ml_cli_load_adapters(const ml_options *o, ml_loaded *m, ml_error *err)
{
    const char *const *given, *use = ml_options_text(o, "use");
    const ml_adapter *chosen;
    size_t n = ml_options_list(o, "adapter", &given);
    m->adapter = ml_calloc(n + 1, sizeof *m->adapter);
    m->adapter_name = ml_calloc(n + 1, sizeof *m->adapter_name);
    if (!m->adapter || !m->adapter_name) return ml_fail_memory(err, n * sizeof *m->adapter, "adapters");
    for (size_t i = 0; i < n; i++) ML_TRY(add_adapter(m, given[i], err));
    m->model->adapter = n ? m->adapter[0] : NULL;
    if (!use) return ML_OK;
    ML_TRY(ml_cli_find_adapter(m, use, &chosen, err));
    m->model->adapter = chosen;
    return ML_OK;
}
