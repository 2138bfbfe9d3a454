/* moonlight data fetch: a data set or model from the hub. */
#include "cli/amount.h"
#include "cli/cli.h"

#include "base/clock.h"
#include "fetch/fetch.h"

#include <stdlib.h>
#include <string.h>

static const char *endpoint_of(const ml_options *o)
{
    const char *given = ml_options_text(o, "endpoint"), *environment = getenv("HF_ENDPOINT");
    return given ? given : environment && *environment ? environment : "https://huggingface.co";
}

static ml_fetch_config read_options(const ml_options *o)
{
    const char *kind = ml_options_text(o, "kind");
    ml_fetch_config c = { .repo = ml_options_positional(o, 0),
                          .kind = strcmp(kind, "dataset") == 0 ? ML_FETCH_DATASET
                                  : strcmp(kind, "model") == 0 ? ML_FETCH_MODEL
                                                               : ML_FETCH_AUTO,
                          .revision = ml_options_text(o, "revision"),
                          .subset = ml_options_text(o, "subset"),
                          .split = ml_options_text(o, "split"),
                          .dst = ml_options_positional_count(o) > 1 ? ml_options_positional(o, 1) : NULL,
                          .endpoint = endpoint_of(o) };
    c.n_include = ml_options_list(o, "include", &c.include);
    return c;
}

static ml_status open_http(const ml_options *o, ml_http **http, ml_error *err)
{
    const ml_http_config config = { .origin = endpoint_of(o),
                                    .token = getenv("HF_TOKEN"),
                                    .stall_seconds = ml_options_real(o, "timeout"),
                                    .n_retry = ml_options_int(o, "retries"),
                                    .retry_wait = ml_options_real(o, "retry-wait") };
    return ml_http_open(&config, http, err);
}

static json_t *describe_plan(const ml_fetch_plan *p)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "path", p->dst, "kind",
                     p->repo.kind == ML_HUB_MODEL ? "model" : "dataset", "repository", p->repo.repo, "commit",
                     p->repo.commit, "files", (json_int_t)p->repo.n_file, "bytes", (json_int_t)p->n_bytes);
}

static ml_status show_list(const ml_options *o, const ml_fetch_plan *p, ml_error *err)
{
    if (!ml_options_flag(o, "json")) {
        for (size_t i = 0; i < p->repo.n_file; i++)
            printf("%12.3f MB  %s\n", (double)p->repo.file[i].n_bytes / 1e6, p->repo.file[i].path);
        return ML_OK;
    }
    json_t *root = describe_plan(p), *list = json_array();
    for (size_t i = 0; i < p->repo.n_file; i++) json_array_append_new(list, json_string(p->repo.file[i].path));
    json_object_set_new(root, "list", list);
    return ml_cli_print_json(root, err);
}

static ml_status print_result(const ml_options *o, const ml_fetch_plan *p, const ml_fetch_result *r, double seconds,
                              ml_error *err)
{
    if (r->n_replaced) ml_log_warn("%zu of the files differed from the hub's and were replaced", r->n_replaced);
    if (ml_options_flag(o, "json")) {
        json_t *root = describe_plan(p);
        json_object_set_new(root, "downloaded", json_integer((json_int_t)(r->n_downloaded + r->n_replaced)));
        json_object_set_new(root, "were_there", json_integer((json_int_t)r->n_there));
        json_object_set_new(root, "seconds", json_real(seconds));
        return ml_cli_print_json(root, err);
    }
    printf("%s: %s, %s", p->dst, ml_cli_count((int64_t)p->repo.n_file, "file").text,
           ml_cli_bytes((int64_t)p->n_bytes).text);
    if (r->n_there) printf(" (%zu were there)", r->n_there);
    printf(" in %.1f s\n", seconds);
    return ML_OK;
}

static ml_status get_files(const ml_options *o, ml_http *http, const ml_fetch_plan *plan, ml_error *err)
{
    ml_fetch_result result;
    double start = ml_clock_seconds();
    ml_progress *progress = ml_progress_begin("fetching", "MB", (double)plan->n_bytes / 1e6);
    ml_status status = ml_fetch_run(http, plan, progress, &result, err);
    ml_progress_end(progress);
    ML_TRY(status);
    return print_result(o, plan, &result, ml_clock_seconds() - start, err);
}

static ml_status fetch(const ml_options *o, ml_error *err)
{
    const ml_fetch_config config = read_options(o);
    ml_http *http;
    ml_fetch_plan plan;
    ml_stop_install();
    ML_TRY(open_http(o, &http, err));
    ml_status status = ml_fetch_make_plan(http, &config, &plan, err);
    if (status == ML_OK) {
        ml_log_info("%s %s at %.12s: %zu of %s, %s -> %s", ml_hub_kind_name(plan.repo.kind), plan.repo.repo,
                    plan.repo.commit, plan.repo.n_file, ml_cli_count((int64_t)plan.n_listed, "file").text,
                    ml_cli_bytes((int64_t)plan.n_bytes).text, plan.dst);
        if (plan.is_partial) {
            ml_log_warn("the hub has converted only the begin of this data set: for all of it leave out --subset and "
                        "--split, and choose files with --include");
        }
        status = ml_options_flag(o, "list") ? show_list(o, &plan, err) : get_files(o, http, &plan, err);
        ml_fetch_plan_free(&plan);
    }
    ml_http_free(http);
    return status;
}

ml_status ml_cli_data_fetch(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("data fetch", NULL, argc, argv, 1, 2, "ORG/NAME [DST]", &o, err));
    ml_status status = fetch(o, err);
    ml_options_free(o);
    return status;
}
