/* Any bytes as the JSON of a conversation, rendered in every format; any bytes as the ids of an answer.  What is
 * rendered of text alone has exactly the marks of the format.
 *
 * cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON -DMOONLIGHT_OPENMP=OFF
 * cmake --build build/fuzz --target fuzz_chat && build/fuzz/tests/fuzz_chat -max_total_time=60 */
#include "base/alloc.h"
#include "token/build.h"
#include "token/chat_json.h"
#include "token/chat_output.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIRST_MARK = 256 };

static ml_tokenizer *make_tokenizer(void)
{
    static const char *const marks[] = { "<BOS>",
                                         "<EOS>",
                                         "<|endoftext|>",
                                         "<|system|>",
                                         "<|user|>",
                                         "<|assistant|>",
                                         "[gMASK]",
                                         "<sop>",
                                         "<|im_end|>",
                                         "<|im_user|>",
                                         "<|im_assistant|>",
                                         "<|im_system|>",
                                         "<|im_middle|>",
                                         "<|tool_calls_section_begin|>",
                                         "<|tool_calls_section_end|>",
                                         "<|tool_call_begin|>",
                                         "<|tool_call_argument_begin|>",
                                         "<|tool_call_end|>",
                                         "<|im_start|>",
                                         "<|start_header_id|>",
                                         "<|end_header_id|>",
                                         "<|eot_id|>",
                                         "<think>",
                                         "</think>" };
    ml_tokenizer *t;
    ml_error err;
    if (ml_tokenizer_make("bytes", &t, &err) != ML_OK) abort();
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        if (ml_tokenizer_put_piece(t, i, &byte, 1, 0, &err) != ML_OK) abort();
    }
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (ml_tokenizer_put_piece(t, FIRST_MARK + (int64_t)i, marks[i], strlen(marks[i]), ML_PIECE_ADDED, &err) !=
            ML_OK)
            abort();
    }
    ml_tokenizer_set_role(t, ML_ROLE_BOS, FIRST_MARK);
    ml_tokenizer_set_role(t, ML_ROLE_EOS, FIRST_MARK + 1);
    if (ml_tokenizer_finish(t, &err) != ML_OK) abort();
    return t;
}

static void render(const ml_tokenizer *t, const ml_chat_format *f, const ml_chat_messages *m, const json_t *tools)
{
    ml_error err;
    ml_ids ids = { 0 };
    ml_chars text = { 0 };
    for (int answer = 0; answer < 2; answer++) {
        const ml_chat_conversation c = { m->messages, m->n, tools, answer };
        ml_status status = ml_chat_render(f, t, &c, &ids, &err);
        if (ml_chat_render_text(f, t, &c, &text, &err) != status) abort();
        size_t n = 0; /* what the ids stand for is the text */
        for (size_t i = 0; i < ids.n; i++) {
            size_t n_piece;
            const char *piece = ml_tokenizer_piece(t, ids.id[i], &n_piece);
            if (n + n_piece > text.n || memcmp(text.data + n, piece, n_piece) != 0) abort();
            n += n_piece;
        }
        if (n != text.n) abort();
    }
    ml_ids_free(&ids);
    ml_chars_free(&text);
}

static void read_answer(const ml_tokenizer *t, const ml_chat_format *f, const uint8_t *data, size_t size)
{
    ml_error err;
    ml_chat_output o = { 0 };
    ml_chat_output_start(&o, f, t, NULL, 0, true);
    int32_t n_id = ml_tokenizer_vocab_size(t);
    for (size_t i = 0; i < size; i++) {
        /* Bytes of the input are ids, the rarest of them marks. */
        int32_t id = data[i] >= 0x80 && FIRST_MARK + data[i] - 0x80 < n_id ? FIRST_MARK + data[i] - 0x80 : data[i];
        if (ml_chat_output_push(&o, id, &err) != ML_OK) abort();
    }
    if (ml_chat_output_end(&o, &err) != ML_OK) abort();
    json_t *message = ml_chat_output_to_json(&o);
    bool has_zero = memchr(data, 0, size) != NULL; /* a text with a zero byte is no JSON here */
    if (!message && !has_zero) abort();
    json_decref(message);
    ml_chat_output_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ml_tokenizer *t;
    ml_error err;
    if (!t) t = make_tokenizer();
    json_t *root = NULL;
    (void)ml_json_parse((const char *)data, size, "input", &root, &err);
    const json_t *list = json_is_object(root) ? json_object_get(root, "messages") : root;
    json_t *tools = json_object_get(root, "tools");
    if (tools && ml_chat_check_tools(tools, "input", &err) != ML_OK) tools = NULL;
    ml_chat_messages m = { 0 };
    bool ok = list && ml_chat_read_messages(list, "input", &m, &err) == ML_OK;
    for (size_t i = 2; ml_chat_words[i]; i++) {
        ml_chat_format f;
        if (ml_chat_choose(t, ml_chat_words[i], NULL, &f, &err) != ML_OK) abort();
        if (ok) render(t, &f, &m, tools);
        read_answer(t, &f, data, size);
    }
    if (ok) ml_chat_messages_free(&m);
    json_decref(root);
    return 0;
}
