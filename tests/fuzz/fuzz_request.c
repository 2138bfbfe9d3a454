/* Any bytes as the body of a request, the first byte saying to which endpoint: refused, or read.  The server has no
 * model, so a request that is fine ends where one is looked for; what comes next of a chat, its messages and the rules
 * for calls of its tools, is read here.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_request
 *   build/fuzz/tests/fuzz_request -max_total_time=60 -dict=tests/fuzz/request.dict CORPUS tests/fuzz/request */
#include "base/alloc.h"
#include "grammar/call_rules.h"
#include "serve/handlers.h"
#include "serve/models_internal.h"
#include "serve/params.h"
#include "serve/server_internal.h"
#include "token/chat_json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ml_web_handler handlers[] = {
    ml_openai_chat,     ml_openai_completions,      ml_openai_embeddings, ml_tokenize,
    ml_detokenize,      ml_generate_stream,         ml_api_trace_make,    ml_api_bench,
    ml_api_models_load, ml_api_models_unload,       ml_api_run_note,      ml_api_models_switch,
    ml_api_message_add, ml_api_conversation_change,
};
enum { N_HANDLER = sizeof handlers / sizeof handlers[0] };

static ml_server *make_server(void)
{
    static ml_server s;
    const ml_models_config config = { .repack = "off", .chat_format = "auto", .n_slot = 1 };
    ml_error err;
    s.loopback = true;
    if (ml_store_open(NULL, &s.store, &err) != ML_OK || ml_models_make(&config, &s.models, &err) != ML_OK) abort();
    return &s;
}

static void read_chat(ml_web *h)
{
    ml_params p;
    ml_error err;
    ml_chat_messages messages;
    if (ml_params_read(h, ML_FOR_CHAT, &p, &err) == ML_OK) {
        if (ml_chat_read_messages(p.messages, "messages", &messages, &err) == ML_OK) ml_chat_messages_free(&messages);
        if (p.tools && ml_chat_check_tools(p.tools, "tools", &err) == ML_OK) {
            const ml_call_rules rules = { .tools = p.tools,
                                          .only = p.tool,
                                          .required = p.must_call,
                                          .single = p.single_call,
                                          .schema = p.schema,
                                          .any_object = p.any_object };
            ml_grammar g;
            (void)ml_call_rules_compile(&rules, &g, &err);
            ml_grammar_free(&g);
        }
    }
    ml_params_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ml_server *server;
    if (!server) server = make_server();
    if (size == 0) return 0;
    ml_web *h = ml_calloc(1, sizeof *h);
    ml_error err = { 0 };
    if (!h) return 0;
    *h = (ml_web){ .server = server, .method = "POST", .path = "/", .id = "none" };
    atomic_store(&h->n_holder, 1);
    if (size > 1 && ml_chars_append(&h->body, (const char *)data + 1, size - 1, &err) != ML_OK) abort();
    ml_status status = handlers[data[0] % N_HANDLER](h, &err);
    if (status == ML_OK) abort(); /* there is no model, run or conversation */
    int code;
    json_t *said = ml_web_error_object(h, &err, &code);
    if (!said || code < 400 || code > 599) abort();
    json_decref(said);
    if (h->json && data[0] % N_HANDLER == 0) read_chat(h);
    server->body_bytes += (int64_t)h->body.n;
    ml_web_drop(h);
    return 0;
}
