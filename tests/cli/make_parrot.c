/* A model folder for tests of verbs that talk: whatever came before, behind each token of a list comes the next one.
 *
 *   make_parrot TOKENIZER FOLDER CHAT_FORMAT TOKEN TOKEN...
 *
 * TOKENIZER is a byte tokenizer, which gets Kimi's marks; a TOKEN is a special token's text or one byte, and each may
 * stand once.  Embeddings are random signs, layers add nothing, and the head's row of a token is the embedding of the
 * one before it. */
#include "base/rng.h"
#include "format/hf.h"
#include "format/manifest.h"
#include "token/chat.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 64 };

static ml_error err;

static int fail(void)
{
    fprintf(stderr, "make_parrot: %s\n", err.message);
    return 1;
}

static ml_status make_config(const ml_tokenizer *t, const char *format, ml_config *c)
{
    ML_TRY(ml_config_preset("nano-moe", c, &err));
    c->vocab_size = ml_tokenizer_vocab_size(t);
    c->hidden_size = c->head_dim = c->rotary_dim = WIDTH;
    c->num_hidden_layers = c->first_k_dense_replace = c->num_attention_heads = c->num_key_value_heads = 1;
    c->n_routed_experts = c->num_experts_per_tok = c->n_shared_experts = 0;
    c->intermediate_size = 16;
    c->max_position_embeddings = 4096;
    c->tie_word_embeddings = 0;
    c->bos_token_id = c->eos_token_id = c->pad_token_id = -1;
    c->balance = ML_BALANCE_NONE;
    ML_TRY(ml_config_set(c, "chat_format", format, "argument", &err));
    return ml_config_check(c, "parrot", &err);
}

static float *find_weight(ml_model *m, const char *name, int64_t *n)
{
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        *n = w->dim[0] * (w->n_dim > 1 ? w->dim[1] : 1);
        if (!strcmp(w->name, name)) return w->data;
    }
    return NULL;
}

static int32_t find_token(const ml_tokenizer *t, const char *text)
{
    ml_ids ids = { 0 };
    int32_t id = ml_tokenizer_find(t, text);
    if (id < 0 && ml_tokenizer_encode(t, text, strlen(text), false, &ids, &err) == ML_OK && ids.n == 1) id = ids.id[0];
    ml_ids_free(&ids);
    return id;
}

static ml_status fill(ml_model *m, const ml_tokenizer *t, char **tokens, int n_token)
{
    int64_t n;
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        float *data = find_weight(m, w->name, &n);
        for (int64_t k = 0; k < n; k++) data[k] = strstr(w->name, "norm") ? 1 : 0;
    }
    float *embed = find_weight(m, "model.embed_tokens.weight", &n), *head = find_weight(m, "lm_head.weight", &n);
    ml_rng rng = ml_rng_make(1, 2);
    for (int64_t k = 0; k < n; k++) embed[k] = ml_rng_u32(&rng) & 1 ? 1.0f : -1.0f;
    for (int i = 0; i + 1 < n_token; i++) {
        int32_t id = find_token(t, tokens[i]), next = find_token(t, tokens[i + 1]);
        if (id < 0 || next < 0) {
            return ml_fail(&err, ML_EINVAL, "\"%s\" or \"%s\" is no token", tokens[i], tokens[i + 1]);
        }
        memcpy(head + next * WIDTH, embed + id * WIDTH, WIDTH * sizeof *head);
    }
    return ML_OK;
}

int main(int argc, char **argv)
{
    static const char *const marks[] = { "<|im_end|>",
                                         "<|im_user|>",
                                         "<|im_assistant|>",
                                         "<|im_system|>",
                                         "<|im_middle|>",
                                         "<|tool_calls_section_begin|>",
                                         "<|tool_calls_section_end|>",
                                         "<|tool_call_begin|>",
                                         "<|tool_call_argument_begin|>",
                                         "<|tool_call_end|>" };
    const ml_tokenizer_extra extra = { .added = marks, .n_added = sizeof marks / sizeof marks[0] };
    if (argc < 5) return 2;
    ml_tokenizer *t = NULL;
    ml_model *m = NULL;
    ml_manifest *manifest = NULL;
    ml_config c;
    bool ok = ml_tokenizer_open_with(argv[1], &extra, &t, &err) == ML_OK && make_config(t, argv[3], &c) == ML_OK &&
              ml_model_make(&c, ML_F32, false, &m, &err) == ML_OK && fill(m, t, argv + 4, argc - 4) == ML_OK &&
              ml_manifest_begin(&manifest, argv[2], 1 << 20, &err) == ML_OK &&
              ml_hf_save(m, ML_F32, NULL, manifest, &err) == ML_OK && ml_tokenizer_save(t, argv[2], &err) == ML_OK &&
              ml_manifest_commit(manifest, &err) == ML_OK;
    ml_manifest_free(manifest);
    ml_model_free(m);
    ml_tokenizer_free(t);
    return ok ? 0 : fail();
}
