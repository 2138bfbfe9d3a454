/* Allocator, arenas, byte cursor, files, random numbers, threads, conversions. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/rng.h"
#include "base/thread.h"
#include "support/support.h"
#include "tensor/dtype.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ml_error err;

static void test_allocator_counts_and_fails(void **state)
{
    (void)state;
    ml_alloc_stats before = ml_alloc_get_stats();
    void *p = ml_alloc(100);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal(ml_alloc_get_stats().live_bytes - before.live_bytes, 100);
    p = ml_realloc(p, 5000);
    assert_int_equal(ml_alloc_get_stats().n_live - before.n_live, 1);
    ml_free(p);
    assert_int_equal(ml_alloc_get_stats().live_bytes, before.live_bytes);
    assert_null(ml_calloc(SIZE_MAX / 2, 3));
    ml_alloc_fail_after(1);
    p = ml_alloc(1);
    assert_non_null(p);
    assert_null(ml_alloc(1));
    assert_null(ml_realloc(p, 10));
    ml_alloc_fail_after(-1);
    ml_free(p);
}

static void test_arena_is_a_stack(void **state)
{
    (void)state;
    ml_arena arena;
    assert_ok(ml_arena_init(&arena, 1024, &err));
    assert_non_null(ml_arena_alloc(&arena, 100));
    size_t mark = ml_arena_mark(&arena);
    assert_int_equal(mark, 128);
    char *a = ml_arena_alloc(&arena, 500);
    assert_null(ml_arena_alloc(&arena, 500));
    ml_arena_release(&arena, mark);
    assert_ptr_equal(ml_arena_alloc(&arena, 800), a);
    assert_int_equal(arena.peak, 128 + 832);
    ml_arena_free(&arena);
}

static void test_cursor_is_bounded(void **state)
{
    (void)state;
    const uint8_t data[] = { 1, 2, 3, 4, 5, 6, 7 };
    ml_bytes b = { data, sizeof data, 0 };
    uint32_t word;
    assert_ok(ml_bytes_u32(&b, &word, &err));
    assert_int_equal(word, 0x04030201);
    assert_fails(ml_bytes_u32(&b, &word, &err), ML_EFORMAT, "offset 4: expected 4 more bytes, found 3");
    const uint8_t *rest;
    assert_fails(ml_bytes_take(&b, SIZE_MAX, &rest, &err), ML_EFORMAT, "offset 4");
}

static void test_files_replace_atomically(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "a/b/c", &err));
    assert_ok(ml_dir_make(path, &err));
    assert_ok(ml_path_join(path, folder, "file", &err));
    assert_ok(ml_file_replace(path, "one", 3, &err));
    ml_file_writer w;
    assert_ok(ml_file_begin(&w, path, &err));
    assert_ok(ml_file_write(&w, "two", 3, &err));
    char *text;
    size_t size;
    assert_ok(ml_file_read(path, &text, &size, &err));
    assert_string_equal(text, "one");
    ml_free(text);
    ml_file_abandon(&w);
    char **names;
    size_t n;
    assert_ok(ml_dir_list(folder, &names, &n, &err));
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[1], "file");
    ml_dir_list_free(names, n);
    assert_ok(ml_path_join(path, folder, "none", &err));
    assert_fails(ml_file_read(path, &text, &size, &err), ML_EIO, "No such file");
    test_remove_folder(folder);
}

/* A pipe that nobody writes into would be waited for without end. */
static void test_only_files_are_read(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], head[8];
    strcpy(folder, test_make_folder());
    ml_map map;
    char *text;
    size_t n;
    assert_ok(ml_path_join(path, folder, "pipe", &err));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_fails(ml_map_open(path, &map, &err), ML_EINVAL, "pipe: is a device or pipe, expected a file");
    assert_fails(ml_file_read(path, &text, &n, &err), ML_EINVAL, "is a device or pipe");
    assert_fails(ml_file_read_head(path, head, sizeof head, &n, &err), ML_EINVAL, "is a device or pipe");
    assert_fails(ml_map_open(folder, &map, &err), ML_EINVAL, "is a folder");
    assert_ok(ml_path_join(path, folder, "file", &err));
    assert_ok(ml_file_replace(path, "12345678 and more", 17, &err));
    assert_ok(ml_file_read_head(path, head, 8, &n, &err));
    assert_int_equal(n, 8);
    assert_memory_equal(head, "12345678", 8);
    assert_ok(ml_file_replace(path, "123", 3, &err));
    assert_ok(ml_file_read_head(path, head, 8, &n, &err));
    assert_int_equal(n, 3);
    test_remove_folder(folder);
}

/* What stands for standard output elsewhere, and what renaming would destroy: as root, /dev/null itself. */
static void test_only_files_are_replaced(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], link[ML_PATH_MAX];
    struct stat st;
    strcpy(folder, test_make_folder());
    ml_file_writer w;
    assert_fails(ml_file_begin(&w, "-", &err), ML_EINVAL, "./-");
    assert_fails(ml_dir_make("-", &err), ML_EINVAL, "./-");
    assert_false(ml_path_exists("-"));
    assert_fails(ml_file_begin(&w, folder, &err), ML_EINVAL, "found a folder");
    assert_ok(ml_path_join(path, folder, "pipe", &err));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_fails(ml_file_begin(&w, path, &err), ML_EINVAL, "device or pipe");
    assert_int_equal(unlink(path), 0);
    assert_ok(ml_path_join(path, folder, "file", &err));
    assert_ok(ml_path_join(link, folder, "link", &err));
    assert_ok(ml_file_replace(path, "one", 3, &err));
    assert_int_equal(symlink("file", link), 0);
    assert_ok(ml_file_replace(link, "two", 3, &err));
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    char *text;
    assert_ok(ml_file_read(path, &text, NULL, &err));
    assert_string_equal(text, "two");
    ml_free(text);
    test_remove_folder(folder);
}

/* First outputs of PCG32 for seed 42, stream 54, as published with the reference implementation. */
static void test_rng_matches_published_vector(void **state)
{
    (void)state;
    const uint32_t expected[] = { 0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e };
    ml_rng rng = ml_rng_make(42, 54);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) assert_int_equal(ml_rng_u32(&rng), expected[i]);
    double sum = 0, squares = 0;
    for (int i = 0; i < 100000; i++) {
        double x = ml_rng_normal(&rng);
        sum += x;
        squares += x * x;
    }
    /* Five standard deviations of the mean and of the variance of 1e5 normals. */
    assert_true(fabs(sum / 1e5) < 5 / sqrt(1e5));
    assert_true(fabs(squares / 1e5 - 1) < 5 * sqrt(2 / 1e5));
}

static void mark_range(void *arg, int64_t begin, int64_t end, int thread)
{
    assert_true(thread >= 0 && thread < ml_thread_count());
    for (int64_t i = begin; i < end; i++) ((int *)arg)[i]++;
}

static void test_parallel_for_covers_once(void **state)
{
    (void)state;
    int seen[1000] = { 0 };
    for (int threads = 1; threads <= 4; threads++) {
        ml_thread_set_count(threads);
        ml_parallel_for(1000, 7, mark_range, seen);
        for (int i = 0; i < 1000; i++) assert_int_equal(seen[i], threads);
    }
    ml_thread_set_count(0);
    ml_parallel_for(0, 1, mark_range, NULL);
}

static void test_half_floats(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = ml_f16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(ml_f16_to_f32(ml_f32_to_f16(f))));
        else
            assert_int_equal(ml_f32_to_f16(f), h);
        float b = ml_bf16_to_f32((uint16_t)h);
        if (!isnan(b)) assert_int_equal(ml_f32_to_bf16(b), h);
    }
    assert_true(ml_f16_to_f32(0x3c01) == 1.0009765625f);
    assert_true(ml_f16_to_f32(0x0001) == 0x1p-24f);
    assert_int_equal(ml_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(ml_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(ml_f32_to_f16(1.00048828125f), 0x3c00); /* halfway, to even */
    assert_int_equal(ml_f32_to_bf16(1.00390625f), 0x3f80);   /* halfway, to even */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allocator_counts_and_fails),
        cmocka_unit_test(test_arena_is_a_stack),
        cmocka_unit_test(test_cursor_is_bounded),
        cmocka_unit_test(test_files_replace_atomically),
        cmocka_unit_test(test_only_files_are_read),
        cmocka_unit_test(test_only_files_are_replaced),
        cmocka_unit_test(test_rng_matches_published_vector),
        cmocka_unit_test(test_parallel_for_covers_once),
        cmocka_unit_test(test_half_floats),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
