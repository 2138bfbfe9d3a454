/* moonlight serve: the server, until Ctrl-C. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "serve/server.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Where conversations are kept unless it is said: `out` is "" when there is no home. */
static ml_status default_store(char out[ML_PATH_MAX], ml_error *err)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char folder[ML_PATH_MAX];
    out[0] = 0;
    if (data && *data == '/') {
        ML_TRY(ml_path_join(folder, data, "moonlight", err));
    } else if (home && *home == '/') {
        ML_TRY(ml_path_join(folder, home, ".local/share/moonlight", err));
    } else {
        return ML_OK;
    }
    ML_TRY(ml_dir_make(folder, err));
    return ml_path_join(out, folder, "store.sqlite", err);
}

static ml_status choose_store(const ml_options *o, char out[ML_PATH_MAX], ml_error *err)
{
    const char *given = ml_options_text(o, "store");
    if (!given) return default_store(out, err);
    out[0] = 0;
    if (strcmp(given, "none") != 0) snprintf(out, ML_PATH_MAX, "%s", given);
    return ML_OK;
}

static ml_status serve(const ml_options *o, ml_error *err)
{
    char store[ML_PATH_MAX];
    ml_server *server;
    ML_TRY(choose_store(o, store, err));
    ml_server_config c = { .host = ml_options_text(o, "host"),
                           .port = (int)ml_options_int(o, "port"),
                           .api_key_file = ml_options_text(o, "api-key-file"),
                           .store = store[0] ? store : NULL,
                           .queue = ml_options_int(o, "queue"),
                           .models = { .runs = ml_options_text(o, "runs"),
                                       .repack = ml_options_text(o, "repack"),
                                       .chat_format = ml_options_text(o, "chat-format"),
                                       .n_slot = ml_options_int(o, "slots"),
                                       .context = ml_options_int(o, "context"),
                                       .cache_token = ml_options_int(o, "cache-tokens"),
                                       .chunk = ml_options_int(o, "chunk"),
                                       .budget = ml_cli_budget_with_adapters(o) } };
    c.n_model = ml_options_list(o, "model", &c.model);
    c.n_adapter = ml_options_list(o, "adapter", &c.adapter);
    if (c.n_model == 0 && !c.models.runs) {
        return ml_fail(err, ML_EINVAL, "expected --model M, or --runs DIR to load models from");
    }
    ML_TRY(ml_server_start(&c, &server, err));
    printf("%s\n", ml_server_url(server));
    fflush(stdout);
    ml_log_info("answering at %s; Ctrl-C ends", ml_server_url(server));
    while (!ml_stop_requested()) nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    ml_server_stop(server);
    ml_log_info("ended");
    return ML_OK;
}

ml_status ml_cli_serve(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("serve", NULL, argc, argv, 0, 0, "", &o, err));
    ml_stop_install();
    ml_status status = serve(o, err);
    ml_options_free(o);
    return status;
}
