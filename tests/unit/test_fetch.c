/* Downloads against a server on this machine that cuts, stalls, lies and redirects. */
#include "base/alloc.h"
#include "base/json.h"
#include "fetch/fetch.h"
#include "support/fake_hub.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ml_error err;
static fake_hub hub;
static char folder[ML_PATH_MAX];
static ml_http *http;

static void open_http(const char *origin, const char *token)
{
    const ml_http_config config = {
        .origin = origin, .token = token, .stall_seconds = 1, .n_retry = 3, .retry_wait = 0.01
    };
    ml_http_free(http);
    assert_ok(ml_http_open(&config, &http, &err));
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    memset(&hub, 0, sizeof hub);
    fake_hub_start(&hub, folder);
    setenv("CURL_CA_BUNDLE", test_path_in(folder, "ca.pem"), 1);
    open_http(test_server_url(hub.server), NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ml_http_free(http);
    http = NULL;
    fake_hub_stop(&hub);
    test_remove_folder(folder);
    ml_stop_set(false);
    return 0;
}

static ml_fetch_config config_for(const char *repo)
{
    static char dst[ML_PATH_MAX + 64];
    snprintf(dst, sizeof dst, "%s/out", folder);
    return (ml_fetch_config){ .repo = repo, .revision = "main", .dst = dst, .endpoint = test_server_url(hub.server) };
}

static ml_status fetch(const ml_fetch_config *c, ml_fetch_result *result)
{
    ml_fetch_plan plan;
    ML_TRY(ml_fetch_make_plan(http, c, &plan, &err));
    ml_status status = ml_fetch_run(http, &plan, NULL, result, &err);
    ml_fetch_plan_free(&plan);
    return status;
}

static void expect_file(const char *path)
{
    char *found;
    size_t n, n_want;
    const char *want = fake_hub_file(path, &n_want);
    char name[300];
    snprintf(name, sizeof name, "out/%s", path);
    assert_ok(ml_file_read(test_path_in(folder, name), &found, &n, &err));
    assert_int_equal(n, n_want);
    assert_memory_equal(found, want, n);
    ml_free(found);
}

/* Names in a folder with commas between. */
static void expect_names(const char *name, const char *want)
{
    char **names, found[1000] = "";
    size_t n;
    assert_ok(ml_dir_list(test_path_in(folder, name), &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%s%s", i ? ", " : "", names[i]);
    }
    assert_string_equal(found, want);
    ml_dir_list_free(names, n);
}

/* Only the large file, which is in two pages of the list. */
static ml_fetch_config large_file(void)
{
    static const char *const include[] = { "data/large.bin" };
    ml_fetch_config c = config_for("org/set");
    c.include = include;
    c.n_include = 1;
    return c;
}

/* ---- what comes ---- */

static void test_a_data_set_comes_whole(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = config_for("org/set");
    ml_fetch_plan plan;
    assert_ok(ml_fetch_make_plan(http, &c, &plan, &err));
    assert_int_equal(plan.repo.kind, ML_HUB_DATASET);
    assert_string_equal(plan.repo.commit, "1111111111111111111111111111111111111111");
    assert_int_equal(plan.repo.n_file, 3);
    assert_int_equal(plan.n_bytes, 8 + 32 + HUB_LARGE_BYTES);
    assert_ok(ml_fetch_run(http, &plan, NULL, &r, &err));
    ml_fetch_plan_free(&plan);
    assert_int_equal(r.n_downloaded, 3);
    expect_names("out", ".fetch.json, README.md, data");
    expect_names("out/data", "a b.jsonl, large.bin");
    expect_file("README.md");
    expect_file("data/a b.jsonl");
    expect_file("data/large.bin");
    json_t *record;
    const char *commit;
    assert_ok(ml_json_load(test_path_in(folder, "out/.fetch.json"), &record, &err));
    assert_ok(ml_json_text(record, "commit", "record", &commit, &err));
    assert_string_equal(commit, "1111111111111111111111111111111111111111");
    assert_int_equal(json_array_size(json_object_get(record, "files")), 3);
    json_decref(record);
    /* again: nothing is to be done, and nothing is asked for */
    int before = hub.n_file_request;
    assert_ok(fetch(&c, &r));
    assert_int_equal(r.n_there, 3);
    assert_int_equal(hub.n_file_request, before);
    /* a file that was changed comes again */
    assert_ok(ml_file_replace(test_path_in(folder, "out/README.md"), "# A net\n", 8, &err));
    assert_ok(fetch(&c, &r));
    assert_int_equal(r.n_there, 2);
    assert_int_equal(r.n_replaced, 1);
    expect_file("README.md");
}

static void test_models_come_without_doubles(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = config_for("org/net");
    assert_ok(fetch(&c, &r));
    expect_names("out", ".fetch.json, config.json, model.safetensors");
    const char *all[] = { "*" };
    c.include = all;
    c.n_include = 1;
    assert_ok(fetch(&c, &r));
    assert_int_equal(r.n_there, 2);
    expect_names("out", ".fetch.json, config.json, model.safetensors, pytorch_model.bin");
    c.kind = ML_FETCH_DATASET;
    assert_fails(fetch(&c, &r), ML_EIO, "no data set \"org/net\" with a revision \"main\"");
}

static void test_subsets_and_splits(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_plan plan;
    ml_fetch_config c = config_for("org/set");
    c.split = "train";
    assert_ok(ml_fetch_make_plan(http, &c, &plan, &err));
    assert_true(plan.is_partial);
    assert_int_equal(plan.repo.n_file, 2);
    ml_fetch_plan_free(&plan);
    c.subset = "default";
    assert_ok(ml_fetch_make_plan(http, &c, &plan, &err));
    assert_false(plan.is_partial);
    ml_fetch_plan_free(&plan);
    assert_ok(fetch(&c, &r));
    expect_file("default/train/0000.parquet");
    expect_names("out/default", "train");
    c.subset = "missing";
    assert_fails(fetch(&c, &r), ML_EIO,
                 "none of its 3 files matches; there are default/test, default/train, other/train");
    c.kind = ML_FETCH_MODEL;
    assert_fails(fetch(&c, &r), ML_EINVAL, "are for data sets");
    c = config_for("org/gated");
    c.split = "train";
    assert_fails(fetch(&c, &r), ML_EIO, "no data set \"org/gated\"");
}

static void test_folders_have_names(void **state)
{
    (void)state;
    ml_fetch_plan plan;
    ml_fetch_config c = config_for("org/net");
    c.dst = NULL;
    assert_ok(ml_fetch_make_plan(http, &c, &plan, &err));
    assert_string_equal(plan.dst, "models/net");
    ml_fetch_plan_free(&plan);
    c.repo = "org/set";
    assert_ok(ml_fetch_make_plan(http, &c, &plan, &err));
    assert_string_equal(plan.dst, "data/set");
    ml_fetch_plan_free(&plan);
}

/* ---- what goes wrong and passes ---- */

static void expect_large_file(hub_fault a, hub_fault b, int n_part_request)
{
    ml_fetch_result r;
    ml_fetch_config c = large_file();
    test_remove_folder(test_path_in(folder, "out"));
    hub.fault[0] = a;
    hub.fault[1] = b;
    hub.n_part_request = 0;
    assert_ok(fetch(&c, &r));
    assert_int_equal(hub.fault[0].n + hub.fault[1].n, 0); /* they happened */
    assert_int_equal(hub.n_part_request, n_part_request);
    expect_file("data/large.bin");
    expect_names("out/data", "large.bin");
}

static void test_a_cut_connection_is_continued(void **state)
{
    (void)state;
    expect_large_file((hub_fault){ "large", HUB_CUT, 100000, 1 }, (hub_fault){ 0 }, 1);
    expect_large_file((hub_fault){ "large", HUB_CUT, 10000, 12 }, (hub_fault){ 0 }, 12); /* each time a little */
    expect_large_file((hub_fault){ "large", HUB_CUT, 0, 3 }, (hub_fault){ 0 }, 0);
}

static void test_a_server_that_stalls_is_left(void **state)
{
    (void)state;
    expect_large_file((hub_fault){ "large", HUB_STALL, 150000, 1 }, (hub_fault){ 0 }, 1);
}

static void test_passing_statuses_are_tried_again(void **state)
{
    (void)state;
    expect_large_file((hub_fault){ "large", HUB_STATUS, 503, 2 }, (hub_fault){ "large", HUB_BUSY, 0, 1 }, 0);
    expect_large_file((hub_fault){ "/tree/", HUB_STATUS, 502, 1 }, (hub_fault){ "/revision/", HUB_BUSY, 0, 2 }, 0);
}

static void test_a_server_without_ranges_begins_again(void **state)
{
    (void)state;
    expect_large_file((hub_fault){ "large", HUB_CUT, 100000, 1 }, (hub_fault){ "large", HUB_NO_RANGE, 0, 1 }, 1);
}

static void test_another_version_begins_again(void **state)
{
    (void)state;
    expect_large_file((hub_fault){ "large", HUB_CUT, 100000, 1 }, (hub_fault){ "large", HUB_CHANGED, 0, 1 }, 1);
}

static void test_damaged_bytes_come_again(void **state)
{
    (void)state;
    expect_large_file((hub_fault){ "large", HUB_DAMAGED, 0, 1 }, (hub_fault){ 0 }, 0);
    /* a part that an earlier call left is not trusted */
    ml_fetch_result r;
    ml_fetch_config c = large_file();
    test_remove_folder(test_path_in(folder, "out"));
    assert_ok(ml_dir_make(test_path_in(folder, "out/data"), &err));
    ml_hub_repo repo = { .kind = ML_HUB_DATASET, .repo = "org/set" };
    snprintf(repo.commit, sizeof repo.commit, "1111111111111111111111111111111111111111");
    assert_ok(ml_hub_list(http, test_server_url(hub.server), &repo, &err));
    char part[200];
    snprintf(part, sizeof part, "out/data/large.bin.%.12s.part", repo.file[2].oid);
    assert_string_equal(repo.file[2].path, "data/large.bin");
    ml_hub_repo_free(&repo);
    assert_ok(ml_file_replace(test_path_in(folder, part), "not the begin of it", 19, &err));
    hub.n_part_request = 0;
    assert_ok(fetch(&c, &r));
    assert_int_equal(hub.n_part_request, 1);
    expect_file("data/large.bin");
    /* but a good one is gone on with, and one that is complete is only put in place */
    for (size_t n = 1000; n <= HUB_LARGE_BYTES; n += HUB_LARGE_BYTES - 1000) {
        size_t size;
        assert_int_equal(unlink(test_path_in(folder, "out/data/large.bin")), 0);
        assert_ok(ml_file_replace(test_path_in(folder, part), fake_hub_file("data/large.bin", &size), n, &err));
        int before = hub.n_file_request;
        assert_ok(fetch(&c, &r));
        assert_int_equal(hub.n_file_request - before, n < HUB_LARGE_BYTES);
        expect_file("data/large.bin");
    }
}

static void test_a_token_goes_to_the_hub_alone(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = config_for("org/gated");
    assert_fails(fetch(&c, &r), ML_EIO,
                 "no data set or model \"org/gated\" with a revision \"main\" that is shown to us");
    open_http(test_server_url(hub.server), "secret");
    assert_ok(fetch(&c, &r));
    expect_file("secret.txt");
    hub.fault[0] = (hub_fault){ "large", HUB_REDIRECT, 0, 1 };
    c = large_file();
    assert_ok(fetch(&c, &r));
    expect_file("data/large.bin");
    fake_hub_stop(&hub);
    assert_string_equal(hub.file_authorization, "Bearer secret");
    assert_int_equal(hub.n_redirected, 1);
    assert_string_equal(hub.redirected_authorization, "");
}

/* ---- what goes wrong and stays so ---- */

static void expect_failure(hub_fault fault, ml_status status, const char *message)
{
    ml_fetch_result r;
    ml_fetch_config c = large_file();
    test_remove_folder(test_path_in(folder, "out"));
    memset(hub.fault, 0, sizeof hub.fault);
    hub.fault[0] = fault;
    assert_fails(fetch(&c, &r), status, message);
    assert_false(ml_path_exists(test_path_in(folder, "out/data/large.bin")));
    assert_false(ml_path_exists(test_path_in(folder, "out/.fetch.json")));
}

static void test_what_cannot_be_mended_is_said(void **state)
{
    (void)state;
    expect_failure((hub_fault){ "large", HUB_STATUS, 404, 9 }, ML_EIO,
                   "large.bin: the server says 404: there is no such");
    expect_failure((hub_fault){ "large", HUB_STATUS, 401, 9 }, ML_EIO,
                   "the server says 401: not allowed without a token");
    expect_failure((hub_fault){ "large", HUB_STATUS, 500, 99 }, ML_EIO, "given up after 4 attempts");
    expect_failure((hub_fault){ "large", HUB_CUT, 0, 99 }, ML_EIO, "given up after 4 attempts");
    expect_failure((hub_fault){ "large", HUB_LONGER, 5, 9 }, ML_EFORMAT,
                   "expected a file of 300000 bytes, the server offers 300005");
    expect_failure((hub_fault){ "large", HUB_ENDLESS, 0, 9 }, ML_EFORMAT,
                   "expected a file of 300000 bytes, the server sends more");
    expect_failure((hub_fault){ "large", HUB_DAMAGED, 0, 9 }, ML_EFORMAT, "the server twice sent others");
    expect_names("out/data", "");
    expect_failure((hub_fault){ "large", HUB_LOOP, 0, 99 }, ML_EIO, "redirect");
    expect_failure((hub_fault){ "/revision/", HUB_BAD_JSON, 0, 9 }, ML_EFORMAT, "/revision/main: byte ");
    expect_failure((hub_fault){ "/tree/", HUB_STATUS, 403, 9 }, ML_EIO, "set HF_TOKEN to your token");
}

static void test_a_wrong_part_is_refused(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = large_file();
    hub.fault[0] = (hub_fault){ "large", HUB_CUT, 1000, 1 };
    hub.fault[1] = (hub_fault){ "large", HUB_WRONG_RANGE, 0, 1 };
    assert_fails(fetch(&c, &r), ML_EFORMAT, "expected the bytes from 1000 on, found others");
}

static void test_names_that_lead_elsewhere_are_refused(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = config_for("org/evil");
    assert_fails(fetch(&c, &r), ML_EFORMAT, "the server lists a file \"../escaped\"");
    assert_false(ml_path_exists(test_path_in(folder, "escaped")));
    static const char *const bad[] = { "", "a/b/c", "/a", "a/", "a b", "../x", "a/..", "a?b", "a%2fb" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c = config_for(bad[i]);
        assert_fails(fetch(&c, &r), ML_EINVAL, "expected the name of a repository");
    }
    c = config_for("org/set");
    c.endpoint = "ftp://x";
    assert_fails(fetch(&c, &r), ML_EINVAL, "--endpoint");
    c = config_for("org/set");
    c.revision = "no/such branch";
    assert_fails(fetch(&c, &r), ML_EIO, "no data set or model \"org/set\" with a revision \"no/such branch\"");
}

static void test_a_certificate_is_checked(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = config_for("org/set");
    unsetenv("CURL_CA_BUNDLE");
    open_http(test_server_url(hub.server), NULL);
    assert_fails(fetch(&c, &r), ML_EIO, "certificate");
}

/* ---- proxy, stop, one at a time ---- */

static atomic_int n_tunnel;

static void tunnel(void *arg, const test_request *q, test_connection *c)
{
    (void)arg;
    const char *port = strrchr(q->target, ':');
    assert_string_equal(q->method, "CONNECT");
    n_tunnel++;
    test_tunnel(c, port ? atoi(port + 1) : 0);
}

static void test_a_proxy_comes_from_the_environment(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = large_file();
    char *none = getenv("no_proxy"), *all = getenv("NO_PROXY");
    none = none ? strdup(none) : NULL;
    all = all ? strdup(all) : NULL;
    test_server *proxy = test_server_start(NULL, tunnel, NULL);
    setenv("https_proxy", test_server_url(proxy), 1);
    unsetenv("no_proxy");
    unsetenv("NO_PROXY");
    ml_status status = fetch(&c, &r);
    unsetenv("https_proxy");
    if (none) setenv("no_proxy", none, 1);
    if (all) setenv("NO_PROXY", all, 1);
    free(none);
    free(all);
    test_server_stop(proxy);
    assert_ok(status);
    assert_true(n_tunnel >= 3);
    expect_file("data/large.bin");
}

static void test_a_stopped_fetch_continues(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = large_file();
    ml_fetch_plan plan;
    atomic_bool stop = false;
    ml_listener listener = { .stop = &stop };
    ml_progress *progress;
    assert_ok(ml_fetch_make_plan(http, &c, &plan, &err));
    assert_ok(ml_progress_begin_for(&listener, "x", "MB", 1, &progress, &err));
    atomic_store(&stop, true);
    assert_fails(ml_fetch_run(http, &plan, progress, &r, &err), ML_ECANCEL, "run the same command again");
    ml_progress_end(progress);
    ml_fetch_plan_free(&plan);
    /* a part that was left is gone on with */
    hub.fault[0] = (hub_fault){ "large", HUB_CUT, 1000, 1 };
    hub.fault[1] = (hub_fault){ "large", HUB_STATUS, 404, 1 };
    assert_fails(fetch(&c, &r), ML_EIO, "404");
    hub.n_part_request = 0;
    assert_ok(fetch(&c, &r));
    assert_int_equal(hub.n_part_request, 1);
    expect_file("data/large.bin");
}

static void test_running_out_of_memory(void **state)
{
    (void)state;
    ml_fetch_result r;
    ml_fetch_config c = config_for("org/set");
    int64_t before = ml_alloc_get_stats().n_live;
    int n_failed = 0;
    for (int64_t n = 0; n < 1000; n++) {
        ml_alloc_fail_after(n);
        ml_status status = fetch(&c, &r);
        ml_alloc_fail_after(-1);
        assert_int_equal(ml_alloc_get_stats().n_live, before);
        if (status == ML_OK) break;
        assert_int_equal(status, ML_ENOMEM);
        n_failed++;
    }
    assert_in_range(n_failed, 5, 999);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_data_set_comes_whole),
        TEST(test_models_come_without_doubles),
        TEST(test_subsets_and_splits),
        TEST(test_folders_have_names),
        TEST(test_a_cut_connection_is_continued),
        TEST(test_a_server_that_stalls_is_left),
        TEST(test_passing_statuses_are_tried_again),
        TEST(test_a_server_without_ranges_begins_again),
        TEST(test_another_version_begins_again),
        TEST(test_damaged_bytes_come_again),
        TEST(test_a_token_goes_to_the_hub_alone),
        TEST(test_what_cannot_be_mended_is_said),
        TEST(test_a_wrong_part_is_refused),
        TEST(test_names_that_lead_elsewhere_are_refused),
        TEST(test_a_certificate_is_checked),
        TEST(test_a_proxy_comes_from_the_environment),
        TEST(test_a_stopped_fetch_continues),
        TEST(test_running_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
