/* SHA-256 against the vectors of FIPS 180-4's examples, and on files. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/sha256_many.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

static void hash_text(const char *text, size_t piece, char hex[ML_SHA256_HEX])
{
    ml_sha256 *h;
    assert_ok(ml_sha256_begin(&h, &err));
    for (size_t at = 0, n = strlen(text); at < n; at += piece) {
        ml_sha256_add(h, text + at, n - at < piece ? n - at : piece);
    }
    uint8_t digest[ML_SHA256_BYTES];
    ml_sha256_end(h, digest);
    ml_sha256_to_hex(digest, hex);
}

static void test_published_vectors(void **state)
{
    (void)state;
    const char *text[] = { "", "abc", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq" };
    const char *expected[] = { "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                               "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" };
    for (size_t i = 0; i < 3; i++) {
        for (size_t piece = 1; piece < 60; piece += 13) {
            char hex[ML_SHA256_HEX];
            hash_text(text[i], piece, hex);
            assert_string_equal(hex, expected[i]);
        }
    }
}

/* One million times 'a' is a FIPS example too, and longer than one read of a file. */
static void test_file(void **state)
{
    (void)state;
    enum { SIZE = 1000000 };
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], hex[ML_SHA256_HEX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "a", &err));
    char *text = ml_alloc(SIZE);
    memset(text, 'a', SIZE);
    assert_ok(ml_file_replace(path, text, SIZE, &err));
    ml_free(text);
    assert_ok(ml_sha256_file(path, hex, &err));
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_fails(ml_sha256_file(folder, hex, &err), ML_EIO, folder);
    test_remove_folder(folder);
    assert_fails(ml_sha256_file(path, hex, &err), ML_EIO, "No such file");
}

static void test_memory_failure(void **state)
{
    (void)state;
    ml_sha256 *h;
    char hex[ML_SHA256_HEX];
    ml_alloc_fail_after(0);
    ml_status status = ml_sha256_begin(&h, &err);
    ml_status file_status = ml_sha256_file("/dev/null", hex, &err);
    ml_alloc_fail_after(-1);
    assert_int_equal(status, ML_ENOMEM);
    assert_int_equal(file_status, ML_ENOMEM);
    assert_null(h);
    ml_sha256_free(NULL);
}

/* Digests of many texts are those of each alone, which libcrypto makes: lengths around every boundary of blocks and
 * padding, long ones between short ones, more than are sorted at a time, and texts at addresses of any kind. */
static void test_many_texts(void **state)
{
    (void)state;
    enum { N = 2500, SIZE = 1 << 16 };
    static uint8_t bytes[SIZE], digest[N][ML_SHA256_BYTES];
    static ml_sha256_text text[N];
    ml_rng rng = ml_rng_make(5, 0);
    for (size_t i = 0; i < SIZE; i++) bytes[i] = (uint8_t)ml_rng_below(&rng, 256);
    for (size_t i = 0; i < N; i++) {
        size_t n = i < 300 ? i : ml_rng_below(&rng, i % 50 ? 1200 : 30000);
        text[i] = (ml_sha256_text){ bytes + ml_rng_below(&rng, SIZE - n), n };
    }
    for (size_t n_suffix = 0; n_suffix <= ML_SHA256_SUFFIX_MAX; n_suffix += n_suffix ? 23 : 9) {
        static const size_t counts[] = { N, 1, 3, 4, 5, 15, 16, 17, 0 };
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            memset(digest, 0, sizeof digest);
            assert_ok(ml_sha256_many(text, counts[c], "behind every one of the texts, 32 b", n_suffix, digest, &err));
            for (size_t i = 0; i < counts[c]; i++) {
                ml_sha256 *h;
                uint8_t expected[ML_SHA256_BYTES];
                assert_ok(ml_sha256_begin(&h, &err));
                ml_sha256_add(h, text[i].data, text[i].n_bytes);
                ml_sha256_add(h, "behind every one of the texts, 32 b", n_suffix);
                ml_sha256_end(h, expected);
                assert_memory_equal(digest[i], expected, ML_SHA256_BYTES);
            }
        }
    }
}

static void test_many_texts_on_any_machine(void **state)
{
    for (int isa = ML_N_ISA - 1; isa >= 0; isa--) {
        ml_cpu_set_isa((ml_isa)isa);
        test_many_texts(state);
    }
    ml_cpu_set_isa(ML_N_ISA - 1);
}

/* Two streams in pieces of any length, and what is left of the longer one. */
static void test_two_streams(void **state)
{
    (void)state;
    enum { SIZE = 20000 };
    static uint8_t bytes[2][SIZE];
    ml_rng rng = ml_rng_make(6, 0);
    for (size_t i = 0; i < SIZE; i++) bytes[0][i] = (uint8_t)i, bytes[1][i] = (uint8_t)(i * i >> 3);
    for (int round = 0; round < 200; round++) {
        ml_sha256 *two[2], *alone[2];
        size_t at[2] = { 0, 0 }, most = round % 2 ? 150 : 3000;
        for (int s = 0; s < 2; s++) {
            assert_ok(ml_sha256_begin(&two[s], &err));
            assert_ok(ml_sha256_begin(&alone[s], &err));
        }
        for (int piece = 0; piece < 5; piece++) {
            size_t n[2] = { ml_rng_below(&rng, most), ml_rng_below(&rng, most) };
            ml_sha256_add_two(two[0], bytes[0] + at[0], n[0], two[1], bytes[1] + at[1], n[1]);
            for (int s = 0; s < 2; s++) at[s] += n[s];
        }
        for (int s = 0; s < 2; s++) {
            uint8_t digest[ML_SHA256_BYTES], expected[ML_SHA256_BYTES];
            ml_sha256_add(alone[s], bytes[s], at[s]);
            ml_sha256_end(alone[s], expected);
            ml_sha256_end(two[s], digest);
            assert_memory_equal(digest, expected, ML_SHA256_BYTES);
        }
    }
}

/* What the machine's instructions compute is what libcrypto computes. */
static void test_scalar_is_the_same(void **state)
{
    (void)state;
    enum { SIZE = 700 };
    uint8_t bytes[SIZE], digest[2][ML_SHA256_BYTES];
    for (size_t i = 0; i < SIZE; i++) bytes[i] = (uint8_t)(i * 7);
    for (size_t n = 0; n <= SIZE; n++) {
        for (int isa = 0; isa < 2; isa++) {
            ml_sha256 *h;
            ml_cpu_set_isa(isa ? ML_N_ISA - 1 : ML_ISA_SCALAR);
            assert_ok(ml_sha256_begin(&h, &err));
            ml_sha256_add(h, bytes, n / 3);
            ml_sha256_add(h, bytes + n / 3, n - n / 3);
            ml_sha256_end(h, digest[isa]);
        }
        assert_memory_equal(digest[0], digest[1], ML_SHA256_BYTES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_many_texts_on_any_machine),
        cmocka_unit_test(test_two_streams),
        cmocka_unit_test(test_scalar_is_the_same),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_memory_failure),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
