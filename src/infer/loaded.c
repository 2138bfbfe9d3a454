#include "infer/loaded.h"

#include "base/alloc.h"
#include "base/memory.h"
#include "format/find.h"
#include "format/open_tokenizer.h"
#include "format/ends.h"
#include "format/gguf_source.h"
#include "format/gguf_tokenizer.h"
#include "format/unused.h"
#include "infer/fit.h"
#include "infer/session.h"

#include <stdio.h>
#include <string.h>

/* What the cache, the activations and other programs may want beside the weights. */
static const int64_t MARGIN_BYTES = (int64_t)2 << 30;

/* The file's own pages are given back while its weights are repacked, so they count as available. */
static bool has_room_to_repack(const ml_model *m, const ml_memory_budget *b)
{
    int64_t available = ml_memory_available(), need = (int64_t)ml_model_repack_bytes(m) + MARGIN_BYTES;
    if (b->available && b->available < available) available = b->available;
    return need < available;
}

static ml_status open_here(const char *path, const char *repack, const ml_memory_budget *budget, ml_model **model,
                           ml_error *err)
{
    ML_TRY(ml_model_open_within(path, budget, model, err));
    if (!strcmp(repack, "off")) return ML_OK;
    if (!strcmp(repack, "auto") && !has_room_to_repack(*model, budget)) return ML_OK;
    ml_status status = ml_model_repack(*model, err);
    if (status == ML_ENOMEM && !strcmp(repack, "auto")) {
        /* What looked like room is not to be had, as under a limit of address space. */
        snprintf((*model)->repack_failure, sizeof(*model)->repack_failure, "%.159s", err->message);
        return ML_OK;
    }
    if (status == ML_OK) return ML_OK;
    ml_model_free(*model);
    *model = NULL;
    return status;
}

bool ml_loaded_describe_weights(const ml_model *m, const char *repack, char *out, size_t size)
{
    size_t stored = 0, copied = m->values.capacity;
    ml_error ignored;
    if (m->panels.base) {
        stored = m->panels.capacity;
    } else if (m->source && ml_model_measure_bind(&m->config, m->source, &stored, &copied, &ignored) != ML_OK) {
        stored = 0;
    }
    bool large = stored >= 1000000000;
    double amount = (double)stored * (large ? 1e-9 : 1e-6);
    const char *unit = large ? "GB" : "MB";
    if (m->device) {
        snprintf(out, size, "uploaded to %.80s", m->device_choice);
        return false; /* where it computes is said anyway */
    }
    if (m->panels.base) {
        snprintf(out, size, "repacked, %.1f %s", amount, unit);
    } else {
        bool refused = !strcmp(repack, "auto") && ml_model_repack_bytes(m) > 0 && !m->repack_failure[0];
        snprintf(out, size, "mapped in place (%.1f %s)%s", amount, unit, refused ? ", repacking would not fit" : "");
    }
    return large;
}

/* On success the model owns the device. */
static ml_status open_there(const char *path, const ml_memory_budget *budget, ml_device *device, ml_model **model,
                            char choice[256], ml_error *err)
{
    ml_memory_budget there = *budget;
    there.on = device;
    ML_TRY(ml_model_open_within(path, &there, model, err));
    ml_fit_device_plan plan;
    ml_status status =
        ml_fit_plan_device(&(*model)->config, ML_F32, (*model)->source, &there, ml_fit_memory(&there), &plan, err);
    if (status == ML_OK) status = ml_model_upload(*model, device, (size_t)plan.weights_room, err);
    if (status == ML_OK && (*model)->n_layer_pinned > 0) {
        size_t n = strlen(choice);
        snprintf(choice + n, 256 - n, ", experts of the last %lld layers in this machine's memory",
                 (long long)(*model)->n_layer_pinned);
    }
    if (status == ML_OK) {
        (*model)->owns_device = true;
        return ML_OK;
    }
    ml_model_free(*model);
    *model = NULL;
    return status;
}

ml_status ml_loaded_open_weights(const char *path, const char *repack, const ml_memory_budget *budget, ml_model **model,
                                 ml_error *err)
{
    ml_device *device;
    ml_error why;
    char choice[256];
    *model = NULL;
    if (!budget->device) return open_here(path, repack, budget, model, err);
    bool must = strcmp(budget->device, "auto") != 0;
    ML_TRY(ml_device_choose(budget->device, &device, choice, err));
    if (device) {
        ml_status status = open_there(path, budget, device, model, choice, must ? err : &why);
        if (status != ML_OK) ml_device_close(device);
        if (status != ML_OK && (must || status != ML_ENOMEM)) {
            if (!must) *err = why;
            return status;
        }
        if (status != ML_OK) {
            why.message[strcspn(why.message, ";")] = 0; /* what could be done about it has no room here */
            snprintf(choice, sizeof choice, "cpu (%.240s)", why.message);
        }
    }
    if (!*model) ML_TRY(open_here(path, repack, budget, model, err));
    memcpy((*model)->device_choice, choice, sizeof choice);
    return ML_OK;
}

ml_status ml_model_open_on(const char *path, const char *device, ml_model **out, ml_error *err)
{
    const ml_memory_budget usual = { .kv_dtype = ML_SESSION_KV, .device = device };
    return ml_loaded_open_weights(path, "off", &usual, out, err);
}

void ml_loaded_tell(const ml_model *m, void (*say)(const char *format, ...))
{
    ml_unused unused;
    ml_error ignored; /* a remark, no more */
    if (m->source && ml_unused_find(m, m->source, &unused, &ignored) == ML_OK && unused.n) {
        say("%s: %zu tensor%s none of the model's and %s not used: %s", m->source->where, unused.n,
            unused.n > 1 ? "s are" : " is", unused.n > 1 ? "are" : "is", unused.names);
    }
    if (m->repack_failure[0]) {
        say("the weights are used where they are, mapped, and not repacked: %s", m->repack_failure);
    }
}

static ml_status check_sizes(const char *found, const ml_loaded *m, ml_error *err)
{
    int64_t vocab = m->model->config.vocab_size;
    if (ml_tokenizer_vocab_size(m->tokenizer) <= vocab) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: the tokenizer has %d ids, the model only %lld: they do not belong together",
                   found, ml_tokenizer_vocab_size(m->tokenizer), (long long)vocab);
}

/* The tokenizer and the ends that go with a model: inside a GGUF file, in the folder of any other. */
static ml_status open_beside(const char *found, ml_loaded *m, ml_error *err)
{
    char folder[ML_PATH_MAX];
    const ml_gguf *g = ml_gguf_source_file(m->model->source);
    bool inside = ml_path_is_dir(found) || g;
    if (!inside) ML_TRY(ml_path_parent(folder, found, err));
    const char *where = inside ? found : folder;
    /* Of the file as it is mapped already: a second mapping takes as much address space again. */
    ML_TRY(g ? ml_gguf_tokenizer(g, &m->tokenizer, err)
             : ml_tokenizer_open_for(where, &m->model->config, &m->tokenizer, err));
    ML_TRY(check_sizes(found, m, err));
    return ml_model_ends(where, &m->model->config, m->tokenizer, &m->ends, err);
}

ml_status ml_loaded_open(const char *path, const char *repack, const ml_memory_budget *budget, ml_loaded *out,
                         ml_error *err)
{
    char found[ML_PATH_MAX];
    *out = (ml_loaded){ 0 };
    ML_TRY(ml_model_find(path, found, err)); /* once: a run may get a better checkpoint meanwhile */
    ml_status status = ml_loaded_open_weights(found, repack, budget, &out->model, err);
    if (status == ML_OK) status = open_beside(found, out, err);
    if (status != ML_OK) ml_loaded_free(out);
    return status;
}

void ml_loaded_free(ml_loaded *m)
{
    for (size_t i = 0; i < m->n_adapter; i++) {
        ml_adapter_free(m->adapter[i]);
        ml_free(m->adapter_name[i]);
    }
    ml_free(m->adapter);
    ml_free(m->adapter_name);
    ml_model_free(m->model);
    ml_tokenizer_free(m->tokenizer);
    ml_ids_free(&m->ends);
    *m = (ml_loaded){ 0 };
}
