/* SHA-256 against the vectors of FIPS 180-4's examples, XXH3 against what xxhsum -H2 prints, and both on files. */
#include "base/alloc.h"
#include "base/hash.h"
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
    uint8_t digest[ML_SHA256_BYTES], again[ML_SHA256_BYTES];
    ml_sha256_finish(h, digest);
    ml_sha256_to_hex(digest, hex);
    /* It begins anew. */
    ml_sha256_add(h, text, strlen(text));
    ml_sha256_end(h, again);
    assert_memory_equal(again, digest, sizeof digest);
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

static void test_xxh3_as_xxhsum_prints_it(void **state)
{
    (void)state;
    const char *text[] = { "", "abc", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq" };
    const char *expected[] = { "99aa06d3014798d86001c324468d497f", "06b05ab6733a618578af5f94892f3950",
                               "3d62d22a5169b016c0d894fd4828a1a7" };
    for (size_t i = 0; i < 3; i++) {
        for (size_t piece = 1, n = strlen(text[i]); piece < 60; piece += 13) {
            char hex[ML_XXH3_HEX];
            ml_xxh3 *h;
            assert_ok(ml_xxh3_begin(&h, &err));
            for (size_t at = 0; at < n; at += piece) ml_xxh3_add(h, text[i] + at, n - at < piece ? n - at : piece);
            ml_xxh3_end(h, hex);
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
    assert_ok(ml_xxh3_file(path, hex, &err));
    assert_string_equal(hex, "a545df8e384a9579b1fd6fae5285c4eb");
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
    ml_xxh3 *x;
    ml_alloc_fail_after(0);
    status = ml_xxh3_begin(&x, &err);
    file_status = ml_xxh3_file("/dev/null", hex, &err);
    ml_alloc_fail_after(-1);
    assert_int_equal(status, ML_ENOMEM);
    assert_int_equal(file_status, ML_ENOMEM);
    assert_null(x);
    ml_xxh3_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_xxh3_as_xxhsum_prints_it),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_memory_failure),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
