/* Continue a text:  generate MODEL_FOLDER TEXT [DEVICE]      DEVICE: cpu, cuda, cuda:N or auto */
#include <moonlight.h>

#include <stdio.h>
#include <string.h>

static bool print_token(void *tokenizer, int32_t id, double logprob)
{
    char *text;
    size_t n_bytes;
    ml_error err;
    (void)logprob;
    if (ml_tokenizer_decode(tokenizer, &id, 1, true, &text, &n_bytes, &err) != ML_OK) return false;
    fwrite(text, 1, n_bytes, stdout);
    ml_free(text);
    return fflush(stdout) == 0;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4) return fprintf(stderr, "usage: generate MODEL_FOLDER TEXT [DEVICE]\n"), 2;
    const char *device = argc == 4 ? argv[3] : "cpu";
    ml_tokenizer *tokenizer = NULL;
    ml_model *model = NULL;
    ml_session *session = NULL;
    ml_sampler *sampler = NULL;
    ml_ids prompt = { 0 };
    ml_generation result = { 0 };
    ml_sampling sampling = ml_sampling_default(); /* greedy */
    ml_error err;

    bool ok = ml_tokenizer_open(argv[1], &tokenizer, &err) == ML_OK &&
              ml_model_open_on(argv[1], device, &model, &err) == ML_OK &&
              ml_tokenizer_append_prefix(tokenizer, &prompt, &err) == ML_OK &&
              ml_tokenizer_encode(tokenizer, argv[2], strlen(argv[2]), false, &prompt, &err) == ML_OK;
    if (ok) {
        ml_model_info info = ml_model_get_info(model);
        ml_generate_config config = {
            .max_tokens = 100, .stop_id = &info.eos_id, .n_stop = 1, .on_token = print_token, .arg = tokenizer
        };
        ok = ml_session_make(model, info.n_position, true, &session, &err) == ML_OK &&
             ml_sampler_make(&sampling, info.n_vocab, ml_tokenizer_vocab_size(tokenizer), &sampler, &err) == ML_OK &&
             ml_generate(session, sampler, prompt.id, (int64_t)prompt.n, &config, &result, &err) == ML_OK;
    }
    puts("");
    if (!ok) fprintf(stderr, "generate: %s\n", err.message);
    ml_generation_free(&result);
    ml_ids_free(&prompt);
    ml_sampler_free(sampler);
    ml_session_free(session);
    ml_model_free(model);
    ml_tokenizer_free(tokenizer);
    return ok ? 0 : 1;
}
