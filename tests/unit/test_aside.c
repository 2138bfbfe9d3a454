/* Folders made beside their place: whole, or not there. */
#include "base/alloc.h"
#include "base/log.h"
#include "format/aside.h"
#include "format/hf.h"
#include "format/leftovers.h"
#include "support/support.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static ml_error err;
static const char *work;

static int set_up(void **state)
{
    (void)state;
    work = test_make_folder();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_remove_folder(work);
    return 0;
}

static ml_status put_one(void *arg, ml_manifest *manifest, ml_error *e)
{
    /* Nobody sees the folder under its name yet. */
    assert_false(ml_path_exists(test_path_in(work, "made")));
    ML_TRY(ml_manifest_put(manifest, "one", "1", 1, e));
    return arg ? ml_fail(e, ML_ECANCEL, "%s", (const char *)arg) : ML_OK;
}

static void expect_names(const char *only)
{
    char **names;
    size_t n;
    assert_ok(ml_dir_list(work, &names, &n, &err));
    assert_int_equal(n, only ? 1 : 0);
    if (only) assert_string_equal(names[0], only);
    ml_dir_list_free(names, n);
}

static void test_a_folder_appears_when_it_is_whole(void **state)
{
    (void)state;
    assert_ok(ml_aside_write(test_path_in(work, "made/"), 0, put_one, NULL, &err));
    expect_names("made");
    assert_ok(ml_manifest_verify(test_path_in(work, "made"), ML_VERIFY_HASHES, &err));
    assert_true(ml_path_exists(test_path_in(work, "made/one")));
}

static void test_a_failure_leaves_nothing(void **state)
{
    (void)state;
    char why[] = "no more";
    assert_fails(ml_aside_write(test_path_in(work, "made"), 0, put_one, why, &err), ML_ECANCEL, "no more");
    expect_names(NULL);
    assert_fails(ml_aside_write(test_path_in(work, "made"), UINT64_MAX / 2, put_one, NULL, &err), ML_EIO, "made");
    expect_names(NULL);
}

static ml_status put_model(void *arg, ml_manifest *manifest, ml_error *e)
{
    return ml_hf_export_write(arg, manifest, e);
}

/* Of a model in memory the same files as ml_hf_save writes; stopped, none. */
/* The id of a process that ended. */
static long dead_process(void)
{
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    assert_true(pid > 0 && waitpid(pid, NULL, 0) == pid);
    return (long)pid;
}

static const char *put_file(const char *name, long number)
{
    char full[128];
    snprintf(full, sizeof full, "%s%ld", name, number);
    const char *path = test_path_in(work, full);
    assert_ok(ml_file_replace(path, "12345", 5, &err));
    return path;
}

/* What a killed process left goes; what somebody writes, or what is another name's, stays. */
static void test_leftovers(void **state)
{
    (void)state;
    long dead = dead_process(), own = (long)getpid();
    ml_leftovers left;
    char folder[64];
    const char *gone[] = { put_file("m.gguf.tmp.", dead), put_file("m-00001-of-00002.gguf.tmp.", dead) };
    const char *stay[] = { put_file("m.gguf.tmp.", own),   put_file("n.gguf.tmp.", dead),
                           put_file("mm.gguf.tmp.", dead), put_file("m.gguf.tmp.x", dead),
                           put_file("m.gguf.", dead),      put_file("m-1-of-x2.gguf.tmp.", dead) };
    assert_ok(ml_leftovers_remove(test_path_in(work, "m.gguf"), &left, &err));
    assert_int_equal(left.n, 2);
    assert_int_equal(left.n_bytes, 10);
    for (int i = 0; i < 2; i++) assert_false(ml_path_exists(gone[i]));
    for (int i = 0; i < 6; i++) assert_true(ml_path_exists(stay[i]));

    snprintf(folder, sizeof folder, "made.tmp.%ld", dead);
    assert_ok(ml_dir_make(test_path_in(work, folder), &err));
    strcat(folder, "/x");
    assert_ok(ml_file_replace(test_path_in(work, folder), "123", 3, &err));
    assert_ok(ml_leftovers_remove(test_path_in(work, "made/"), &left, &err));
    assert_int_equal(left.n, 1);
    assert_int_equal(left.n_bytes, 3);
    assert_ok(ml_leftovers_remove("/no/such/folder/m", &left, &err));
    assert_int_equal(left.n, 0);
}

/* A number says nothing of processes elsewhere: the lock does. */
static void test_a_file_being_written_is_no_leftover(void **state)
{
    (void)state;
    ml_leftovers left;
    ml_file_writer w;
    char name[64];
    assert_ok(ml_file_begin(&w, test_path_in(work, "m.gguf"), &err));
    snprintf(name, sizeof name, "m.gguf.tmp.%ld", dead_process());
    assert_int_equal(rename(w.tmp, test_path_in(work, name)), 0);
    assert_ok(ml_leftovers_remove(test_path_in(work, "m.gguf"), &left, &err));
    assert_int_equal(left.n, 0);
    ml_file_abandon(&w);
    assert_ok(ml_leftovers_remove(test_path_in(work, "m.gguf"), &left, &err));
    assert_int_equal(left.n, 1);
}

static void test_a_model_in_memory(void **state)
{
    (void)state;
    ml_config c;
    ml_model *m;
    ml_manifest *manifest;
    char *a, *b;
    size_t n, n_b;
    assert_ok(ml_config_preset("moonlight-tiny", &c, &err));
    assert_ok(ml_model_make(&c, ML_F32, false, &m, &err));
    ml_model_init(m, 3);
    ml_hf_export x = { .model = m, .dtype = ML_BF16, .summary = "A test." };
    ml_stop_set(true);
    assert_fails(ml_aside_write(test_path_in(work, "made"), 0, put_model, &x, &err), ML_ECANCEL, "nothing was written");
    ml_stop_set(false);
    expect_names(NULL);
    assert_ok(ml_aside_write(test_path_in(work, "made"), 0, put_model, &x, &err));
    assert_ok(ml_manifest_begin(&manifest, test_path_in(work, "saved"), 0, &err));
    assert_ok(ml_hf_save(m, ML_BF16, "A test.", manifest, &err));
    assert_ok(ml_manifest_commit(manifest, &err));
    ml_manifest_free(manifest);
    assert_ok(ml_file_read(test_path_in(work, "made/manifest.json"), &a, &n, &err)); /* sizes and hashes of all */
    assert_ok(ml_file_read(test_path_in(work, "saved/manifest.json"), &b, &n_b, &err));
    assert_int_equal(n, n_b);
    assert_memory_equal(a, b, n);
    ml_free(a);
    ml_free(b);
    ml_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_folder_appears_when_it_is_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_failure_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_leftovers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_file_being_written_is_no_leftover, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_model_in_memory, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("aside", tests, NULL, NULL);
}
