/* Manifests, run folders and checkpoints: whole or not there, whatever happens. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"
#include "format/checkpoint.h"
#include "support/support.h"

#include <math.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static ml_error err;

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[ML_PATH_MAX];
    assert_ok(ml_path_join(path, folder, name, &err));
    assert_ok(ml_file_replace(path, text, strlen(text), &err));
}

static void test_manifest(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    ml_manifest *m;
    assert_fails(ml_manifest_begin(&m, folder, UINT64_MAX, &err), ML_EIO, "MB are needed and");
    assert_ok(ml_manifest_begin(&m, folder, 1000, &err));
    assert_fails(ml_manifest_put(m, "../x", "", 0, &err), ML_EINVAL, "cannot be the name");
    assert_fails(ml_manifest_put(m, "a//x", "", 0, &err), ML_EINVAL, "cannot be the name");
    assert_fails(ml_manifest_put(m, "/x", "", 0, &err), ML_EINVAL, "cannot be the name");
    assert_ok(ml_manifest_put(m, "state/a", "abc", 3, &err));
    assert_ok(ml_manifest_put(m, "empty", "", 0, &err));
    write_text(folder, "plain", "hello");
    assert_fails(ml_manifest_verify(folder, ML_VERIFY_SIZES, &err), ML_EFORMAT, "has no manifest.json");
    assert_ok(ml_manifest_commit(m, &err));
    ml_manifest_free(m);
    assert_ok(ml_manifest_verify(folder, ML_VERIFY_HASHES, &err));

    /* FIPS 180-2, appendix B.1: the hash of "abc" */
    json_t *json;
    assert_ok(ml_path_join(path, folder, "manifest.json", &err));
    assert_ok(ml_json_load(path, &json, &err));
    const json_t *files = json_object_get(json, "files"), *last = json_array_get(files, 2);
    assert_int_equal(json_array_size(files), 3);
    assert_string_equal(json_string_value(json_object_get(last, "path")), "state/a");
    assert_int_equal(json_integer_value(json_object_get(last, "bytes")), 3);
    assert_string_equal(json_string_value(json_object_get(last, "sha256")),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    json_decref(json);

    write_text(folder, "plain", "hellO");
    assert_ok(ml_manifest_verify(folder, ML_VERIFY_SIZES, &err));
    assert_fails(ml_manifest_verify(folder, ML_VERIFY_HASHES, &err), ML_EFORMAT, "plain: expected SHA-256 2cf24d");
    write_text(folder, "plain", "hell");
    assert_fails(ml_manifest_verify(folder, ML_VERIFY_SIZES, &err), ML_EFORMAT, "plain: expected 5 bytes");
    write_text(folder, "manifest.json", "{}");
    assert_fails(ml_manifest_verify(folder, ML_VERIFY_SIZES, &err), ML_EFORMAT, "manifest.json: key \"format\"");
    write_text(folder, "manifest.json",
               "{\"format\":\"moonlight-manifest\",\"version\":1,\"files\":[{\"path\":\"../x\",\"bytes\":0,\"sha256\":"
               "\"\"}]}");
    assert_fails(ml_manifest_verify(folder, ML_VERIFY_SIZES, &err), ML_EFORMAT, "leads out of the folder");
    test_remove_folder(folder);
}

/* A small checkpoint whose every number follows from its step. */

enum { N_STATE = 40000, N_WEIGHT = 30000 };

static ml_status save_step(const ml_run *run, int64_t step, uint64_t expect_bytes, ml_error *e)
{
    static float momentum[N_STATE], weight[N_WEIGHT];
    int64_t counters[2] = { step, 2 * step };
    for (int i = 0; i < N_STATE; i++) momentum[i] = (float)(step * 100 + i % 100);
    for (int i = 0; i < N_WEIGHT; i++) weight[i] = (float)(step % 100 + i % 100);
    const ml_state_buffer buffers[] = { { .name = "counters", .dtype = ML_ST_I64, .n = 2, .data = counters },
                                        { .name = "momentum", .dtype = ML_ST_F32, .n = N_STATE, .data = momentum } };
    const int64_t shape[2] = { 100, N_WEIGHT / 100 };
    ml_checkpoint *c = NULL;
    ml_st_writer *w = NULL;
    json_t *json = json_pack("{s:I}", "step", (json_int_t)step);
    char path[ML_PATH_MAX];
    ml_status status;
    ML_TRY_GOTO(ml_checkpoint_begin(&c, run, step, expect_bytes, e));
    ML_TRY_GOTO(ml_st_writer_begin(&w, ml_checkpoint_manifest(c), "model.safetensors", 40000, e));
    ML_TRY_GOTO(ml_st_writer_declare(w, "a", ML_ST_BF16, 2, shape, e));
    ML_TRY_GOTO(ml_st_writer_declare(w, "b", ML_ST_BF16, 2, shape, e));
    ML_TRY_GOTO(ml_st_writer_start(w, e));
    ML_TRY_GOTO(ml_st_writer_put_f32(w, weight, N_WEIGHT, e));
    ML_TRY_GOTO(ml_st_writer_put_f32(w, weight, N_WEIGHT, e));
    ML_TRY_GOTO(ml_st_writer_end(w, e));
    ML_TRY_GOTO(ml_path_join(path, ml_checkpoint_path(c), "tokenizer.json", e));
    status = ml_file_replace(path, "{}", 2, e); /* by other means */
    if (status == ML_EIO) status = ml_manifest_fail_write(ml_checkpoint_manifest(c), e);
    if (status != ML_OK) goto done;
    ML_TRY_GOTO(ml_checkpoint_put_state(c, "state/optimizer.safetensors", buffers, 2, e));
    ML_TRY_GOTO(ml_checkpoint_put_json(c, "state/trainer.json", json, e));
    ML_TRY_GOTO(ml_checkpoint_commit(c, e));
done:
    json_decref(json);
    ml_st_writer_free(w);
    ml_checkpoint_free(c);
    return status;
}

static ml_status load_step(const char *path, int64_t step, bool *as_saved, ml_error *e)
{
    static float momentum[N_STATE], weight[N_WEIGHT];
    int64_t counters[2];
    const ml_state_buffer buffers[] = { { .name = "momentum", .dtype = ML_ST_F32, .n = N_STATE, .data = momentum },
                                        { .name = "counters", .dtype = ML_ST_I64, .n = 2, .data = counters } };
    const int64_t shape[2] = { 100, N_WEIGHT / 100 };
    ml_safetensors *s = NULL;
    const ml_st_tensor *t;
    ml_status status;
    ML_TRY_GOTO(ml_checkpoint_get_state(path, "state/optimizer.safetensors", buffers, 2, e));
    ML_TRY_GOTO(ml_safetensors_open(&s, path, e));
    ML_TRY_GOTO(ml_safetensors_get(s, "b", 2, shape, &t, e));
    ML_TRY_GOTO(ml_st_read_all_f32(t, weight, e));
    *as_saved = counters[0] == step && counters[1] == 2 * step;
    for (int i = 0; i < N_STATE; i++) *as_saved &= momentum[i] == (float)(step * 100 + i % 100);
    for (int i = 0; i < N_WEIGHT; i++) *as_saved &= weight[i] == (float)(step % 100 + i % 100); /* exact in bf16 */
done:
    ml_safetensors_close(s);
    return status;
}

static void check_latest(const char *folder, int64_t expected)
{
    char path[ML_PATH_MAX];
    int64_t step;
    bool as_saved;
    assert_ok(ml_run_find(folder, ML_RUN_LATEST, path, &step, &err));
    if (expected >= 0) assert_int_equal(step, expected);
    assert_ok(ml_manifest_verify(path, ML_VERIFY_HASHES, &err));
    assert_ok(load_step(path, step, &as_saved, &err));
    assert_true(as_saved);
}

static void test_save_and_load(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    int64_t step;
    strcpy(folder, test_make_folder());
    ml_run *run;
    assert_ok(ml_run_open(&run, folder, &err));
    assert_fails(ml_run_find(folder, ML_RUN_BEST, path, NULL, &err), ML_EINVAL, "has no complete checkpoint");
    assert_ok(save_step(run, 5, 0, &err));
    assert_ok(save_step(run, 10, 0, &err));
    check_latest(folder, 10);
    assert_ok(save_step(run, 5, 0, &err)); /* again: replaces */
    check_latest(folder, 5);
    assert_ok(ml_run_find(folder, ML_RUN_BEST, path, &step, &err)); /* no best yet: the latest */
    assert_int_equal(step, 5);
    assert_ok(ml_run_set(run, ML_RUN_BEST, 10, &err));
    assert_ok(ml_run_find(folder, ML_RUN_BEST, path, &step, &err));
    assert_int_equal(step, 10);
    assert_fails(ml_run_set(run, ML_RUN_BEST, 11, &err), ML_EFORMAT, "step_000011: has no manifest.json");

    float momentum[N_STATE];
    int64_t counters[3];
    ml_state_buffer buffers[] = { { .name = "momentum", .dtype = ML_ST_F32, .n = N_STATE, .data = momentum },
                                  { .name = "counters", .dtype = ML_ST_I64, .n = 3, .data = counters } };
    const char *file = "state/optimizer.safetensors";
    assert_fails(ml_checkpoint_get_state(path, file, buffers, 2, &err), ML_EFORMAT,
                 "tensor counters: expected shape [3], found [2]");
    assert_fails(ml_checkpoint_get_state(path, file, buffers, 1, &err), ML_EFORMAT, "holds 2 buffers, this run has 1");
    buffers[0].dtype = ML_ST_I64;
    assert_fails(ml_checkpoint_get_state(path, file, buffers, 1, &err), ML_EFORMAT, "expected I64, found F32");

    write_text(folder, "latest", "step_000007\n");
    assert_fails(ml_run_find(folder, ML_RUN_LATEST, path, NULL, &err), ML_EFORMAT, "\"latest\" names a step that");
    write_text(folder, "latest", "../elsewhere\n");
    assert_fails(ml_run_find(folder, ML_RUN_LATEST, path, NULL, &err), ML_EFORMAT, "found \"../elsewhere\"");
    assert_ok(ml_path_join(path, folder, "latest", &err));
    assert_ok(ml_dir_remove(path, &err));
    check_latest(folder, 10); /* the highest */
    ml_run_close(run);
    test_remove_folder(folder);
}

static void test_prune_keeps_what_matters(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    ml_run *run;
    ml_manifest *m;
    assert_ok(ml_run_open(&run, folder, &err));
    for (int64_t step = 999998; step <= 1000006; step++) { /* names sort otherwise than numbers here */
        assert_ok(ml_run_step_path(folder, step, path, &err));
        assert_ok(ml_manifest_begin(&m, path, 0, &err));
        assert_ok(ml_manifest_commit(m, &err));
        ml_manifest_free(m);
    }
    assert_ok(ml_run_set(run, ML_RUN_BEST, 999999, &err));
    assert_ok(ml_run_set(run, ML_RUN_LATEST, 1000002, &err));
    assert_ok(ml_path_join(path, folder, "step_000003", &err)); /* incomplete: not counted, not touched */
    assert_ok(ml_dir_make(path, &err));
    int64_t *steps;
    size_t n;
    assert_ok(ml_run_prune(run, 0, 0, &err));
    assert_ok(ml_run_list(folder, &steps, &n, &err));
    assert_int_equal(n, 9);
    ml_free(steps);
    assert_ok(ml_run_prune(run, 2, 1000, &err));
    assert_ok(ml_run_list(folder, &steps, &n, &err));
    const int64_t expected[] = { 999999, 1000000, 1000002, 1000005, 1000006 };
    assert_int_equal(n, 5);
    assert_memory_equal(steps, expected, sizeof expected);
    ml_free(steps);
    assert_true(ml_path_exists(path));
    ml_run_close(run);
    test_remove_folder(folder);
}

/* Run `body` in a child; its exit status, or 128 + the signal that ended it. */
static int wait_for(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_run_is_locked(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], pid[32];
    strcpy(folder, test_make_folder());
    int ready[2], stop[2];
    assert_int_equal(pipe(ready) | pipe(stop), 0);
    pid_t child = fork();
    if (child == 0) {
        ml_run *held;
        char byte = 0;
        if (ml_run_open(&held, folder, &err) != ML_OK || write(ready[1], &byte, 1) != 1) _exit(1);
        close(stop[1]);
        (void)!read(stop[0], &byte, 1); /* until the parent is done, or gone */
        _exit(0);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    ml_run *run;
    snprintf(pid, sizeof pid, "in use by process %ld:", (long)child);
    assert_fails(ml_run_open(&run, folder, &err), ML_EINVAL, pid);
    close(stop[1]);
    assert_int_equal(wait_for(child), 0);
    assert_ok(ml_run_open(&run, folder, &err)); /* its death opened the lock */
    ml_run_close(run);
    close(stop[0]);
    close(ready[0]);
    close(ready[1]);
    test_remove_folder(folder);
}

/* Nothing is in the run folder but its lock, pointers and complete steps. */
static void check_clean(const char *folder)
{
    char **names;
    size_t n;
    assert_ok(ml_dir_list(folder, &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        char path[ML_PATH_MAX];
        assert_ok(ml_path_join(path, folder, names[i], &err));
        if (strstr(names[i], ".tmp") || strstr(names[i], ".old")) fail_msg("%s was left", path);
        if (ml_path_is_dir(path)) assert_ok(ml_manifest_verify(path, ML_VERIFY_HASHES, &err));
    }
    ml_dir_list_free(names, n);
}

/* What the child of the kill test does until it dies: save, replace, prune. */
static void save_for_ever(const char *folder, int64_t first)
{
    ml_run *run;
    if (ml_run_open(&run, folder, &err) != ML_OK) _exit(2);
    for (int64_t step = first;; step++) {
        if (save_step(run, step, 0, &err) != ML_OK) _exit(3);
        if (step % 3 == 0 && save_step(run, step, 0, &err) != ML_OK) _exit(4);
        if (ml_run_prune(run, 2, 0, &err) != ML_OK) _exit(5);
    }
}

static void test_kill_at_any_moment(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    ml_rng rng = ml_rng_make((uint64_t)getpid(), 0);
    int64_t step = 0;
    ml_run *run;
    assert_ok(ml_run_open(&run, folder, &err));
    double begin = ml_clock_seconds();
    assert_ok(save_step(run, 0, 0, &err));
    /* Some saves on this disk, but not seconds when it is slow. */
    double span = 0.02 + fmin(4 * (ml_clock_seconds() - begin), 0.3);
    ml_run_close(run);
    for (int round = 0; round < 25; round++) {
        pid_t child = fork();
        if (child == 0) save_for_ever(folder, step + 1);
        usleep((useconds_t)(1e6 * span * ml_rng_uniform(&rng)));
        kill(child, SIGKILL);
        assert_int_equal(wait_for(child), 128 + SIGKILL);
        int64_t before = step;
        assert_ok(ml_run_open(&run, folder, &err));
        check_clean(folder);
        assert_ok(ml_run_find(folder, ML_RUN_LATEST, path, &step, &err));
        assert_true(step >= before);
        check_latest(folder, step);
        ml_run_close(run);
    }
    assert_ok(ml_run_open(&run, folder, &err));
    assert_ok(save_step(run, step + 1, 0, &err)); /* and it goes on */
    check_latest(folder, step + 1);
    ml_run_close(run);
    test_remove_folder(folder);
}

/* The states that the random moments above may miss. */
static void test_leftovers_are_cleaned(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], from[ML_PATH_MAX], to[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    ml_run *run;
    assert_ok(ml_run_open(&run, folder, &err));
    assert_ok(save_step(run, 1, 0, &err));
    ml_run_close(run);
    /* killed between the two renames of a replacement */
    assert_ok(ml_path_join(from, folder, "step_000001", &err));
    assert_ok(ml_path_join(to, folder, "step_000001.old", &err));
    assert_int_equal(rename(from, to), 0);
    assert_ok(ml_path_join(to, folder, "step_000001.tmp/state", &err));
    assert_ok(ml_dir_make(to, &err));
    write_text(folder, "latest.tmp.123", "step");
    assert_ok(ml_run_open(&run, folder, &err));
    check_clean(folder);
    check_latest(folder, 1);
    ml_run_close(run);
    /* killed while the replaced one was being removed */
    assert_ok(ml_path_join(to, folder, "step_000001.old/state", &err));
    assert_ok(ml_dir_make(to, &err));
    assert_ok(ml_run_open(&run, folder, &err));
    check_clean(folder);
    check_latest(folder, 1);
    ml_run_close(run);
    test_remove_folder(folder);
}

/* After a save that failed for want of space: said so, nothing left, the earlier one whole.  0 when so. */
static int check_refused_save(const ml_run *run, const char *folder, int64_t step)
{
    char path[ML_PATH_MAX];
    int64_t latest;
    bool as_saved = false;
    if (save_step(run, step, 0, &err) != ML_EIO) return 10;
    if (!strstr(err.message, "MB are free on the file system")) return 11;
    if (ml_run_step_path(folder, step, path, &err) != ML_OK || ml_path_exists(path)) return 12;
    strcat(path, ".tmp");
    if (ml_path_exists(path)) return 13;
    if (ml_run_find(folder, ML_RUN_LATEST, path, &latest, &err) != ML_OK || latest != 1) return 14;
    if (ml_manifest_verify(path, ML_VERIFY_HASHES, &err) != ML_OK) return 15;
    if (load_step(path, latest, &as_saved, &err) != ML_OK || !as_saved) return 16;
    return 0;
}

/* Files may not grow over 100 kB: the state of 160 kB fails in the middle. */
static int fill_by_limit(const char *folder)
{
    ml_run *run;
    struct rlimit limit = { 100000, RLIM_INFINITY };
    signal(SIGXFSZ, SIG_IGN);
    if (ml_run_open(&run, folder, &err) != ML_OK || save_step(run, 1, 0, &err) != ML_OK) return 2;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 3;
    int result = check_refused_save(run, folder, 2);
    ml_run_close(run);
    return result;
}

enum { NOT_PERMITTED = 77 };

/* A file system of its own with room for one checkpoint (280 kB) and a half; filled up from every size of gap, so
 * that each file in turn is the one that does not fit. */
static int fill_small_disk(const char *folder)
{
    ml_run *run;
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return NOT_PERMITTED;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return NOT_PERMITTED;
    if (mount("none", folder, "tmpfs", 0, "size=640k") != 0) return NOT_PERMITTED;
    if (ml_run_open(&run, folder, &err) != ML_OK || save_step(run, 1, 0, &err) != ML_OK) return 2;
    if (save_step(run, 2, 1000000, &err) != ML_EIO || !strstr(err.message, "1.0 MB are needed and 0.3")) return 3;
    static const char zeros[360 * 1024];
    int n = 0;
    for (size_t size = 80 * 1024; size < sizeof zeros; size += 4096, n++) {
        char ballast[ML_PATH_MAX];
        if (ml_path_join(ballast, folder, "ballast", &err) != ML_OK) return 4;
        (void)unlink(ballast);
        if (ml_file_replace(ballast, zeros, size, &err) != ML_OK) break;
        int result = check_refused_save(run, folder, 2);
        if (result) return result;
    }
    ml_run_close(run);
    return n >= 40 ? 0 : 5;
}

static void test_full_disk(void **state)
{
    (void)state;
    int (*const cases[])(const char *) = { fill_by_limit, fill_small_disk };
    for (size_t i = 0; i < 2; i++) {
        char folder[ML_PATH_MAX];
        strcpy(folder, test_make_folder());
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            int result = cases[i](folder);
            if (result && result != NOT_PERMITTED) print_message("case %zu: %d: %s\n", i, result, err.message);
            fflush(NULL);
            _exit(result);
        }
        int result = wait_for(child);
        if (result == NOT_PERMITTED) {
            print_message("skipped: may not mount a small file system here\n");
        } else {
            assert_int_equal(result, 0);
        }
        test_remove_folder(folder);
    }
}

static ml_status whole_life(const char *folder, ml_error *e)
{
    char path[ML_PATH_MAX];
    int64_t step;
    bool as_saved = false;
    ml_run *run;
    ML_TRY(ml_run_open(&run, folder, e));
    ml_status status;
    ML_TRY_GOTO(save_step(run, 1, 0, e));
    ML_TRY_GOTO(save_step(run, 2, 0, e));
    ML_TRY_GOTO(ml_run_prune(run, 1, 0, e));
    ML_TRY_GOTO(ml_run_find(folder, ML_RUN_LATEST, path, &step, e));
    ML_TRY_GOTO(load_step(path, step, &as_saved, e));
    ML_TRY_GOTO(ml_manifest_verify(path, ML_VERIFY_HASHES, e));
    if (!as_saved) status = ml_fail(e, ML_EFORMAT, "wrong numbers");
done:
    ml_run_close(run);
    return status;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    /* Hundreds of syncs: in memory where there is such a file system. */
    strcpy(folder, ml_path_is_dir("/dev/shm") ? "/dev/shm/moonlight-test-XXXXXX" : "/tmp/moonlight-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    ml_alloc_stats before = ml_alloc_get_stats();
    int64_t n = 0;
    for (;; n++) {
        memset(&err, 0, sizeof err);
        ml_alloc_fail_after(n);
        ml_status status = whole_life(folder, &err);
        ml_alloc_fail_after(-1);
        assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
        if (status == ML_OK) break;
        if (status != ML_ENOMEM) fail_msg("allocation %d: %s", (int)n, err.message);
        assert_non_null(strstr(err.message, "out of memory"));
    }
    assert_true(n > 50);
    check_latest(folder, 2);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_prune_keeps_what_matters),
        cmocka_unit_test(test_run_is_locked),
        cmocka_unit_test(test_kill_at_any_moment),
        cmocka_unit_test(test_leftovers_are_cleaned),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
