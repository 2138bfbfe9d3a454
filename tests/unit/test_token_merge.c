/* Merging against the rule itself, applied naively from the bytes on: vocabularies made at random, whose merges cut
 * characters anywhere. */
#include "support/support.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "token/build.h"

#include <string.h>

static ml_error err;

/* Characters that share first, middle and last bytes, so that parts of one fit to parts of another. */
static const char *const alphabet[] = { "a",
                                        " ",
                                        "\xC3\xA9",
                                        "\xC3\xA8",
                                        "\xD0\xA9",
                                        "\xE4\xB8\xAD",
                                        "\xE4\xB8\xA9",
                                        "\xE4\xBD\xAD",
                                        "\xE5\xB8\xAD",
                                        "\xE3\x83\xBC",
                                        "\xE3\x83\xAD",
                                        "\xE3\x82\xBC",
                                        "\xF0\x9F\x98\xAD" };
enum { N_ALPHABET = sizeof alphabet / sizeof alphabet[0], TOKEN_MAX = 24, N_MERGE = 60, TEXT_MAX = 400 };

static size_t random_text(ml_rng *rng, char *text, size_t n_char)
{
    size_t n = 0;
    /* Few different characters: runs and repeats, in which ties between equal pairs matter. */
    size_t n_used = 1 + ml_rng_below(rng, N_ALPHABET), first = ml_rng_below(rng, N_ALPHABET);
    for (size_t i = 0; i < n_char; i++) {
        const char *c = alphabet[(first + ml_rng_below(rng, n_used)) % N_ALPHABET];
        memcpy(text + n, c, strlen(c));
        n += strlen(c);
    }
    return n;
}

/* ids[0..n) merged in place, by the definition: again and again the pair of lowest rank, the leftmost of equals. */
static size_t merge_naively(const ml_tokenizer *t, int32_t *ids, size_t n)
{
    for (;;) {
        size_t best_rank = SIZE_MAX, best = 0;
        int32_t result = -1;
        for (size_t rank = 0; rank < ml_tokenizer_merge_count(t) && result < 0; rank++) {
            int32_t left, right, made;
            ml_tokenizer_merge(t, rank, &left, &right, &made);
            for (size_t i = 0; i + 1 < n; i++) {
                if (ids[i] != left || ids[i + 1] != right) continue;
                best_rank = rank;
                best = i;
                result = made;
                break;
            }
        }
        if (best_rank == SIZE_MAX) return n;
        ids[best] = result;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

typedef struct {
    int32_t left, right, result;
} merge;

/* Merges of neighbours in random texts, as training would find them; shuffled now and then, so that a token can be
 * merged further before there is a merge that makes it. */
static size_t random_merges(ml_rng *rng, ml_tokenizer *t, merge *merges)
{
    int32_t next = 256;
    size_t n_merge = 0;
    for (int tries = 0; tries < 4 * N_MERGE && n_merge < N_MERGE; tries++) {
        char text[TEXT_MAX], bytes[2 * TOKEN_MAX];
        int32_t ids[TEXT_MAX];
        size_t n = random_text(rng, text, 30), n_left, n_right;
        for (size_t i = 0; i < n; i++) ids[i] = (uint8_t)text[i];
        for (size_t k = 0; k < n_merge; k++) { // what is merged so far, in the order of finding
            for (size_t i = 0; i + 1 < n; i++) {
                if (ids[i] != merges[k].left || ids[i + 1] != merges[k].right) continue;
                ids[i] = merges[k].result;
                memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
                n--;
            }
        }
        if (n < 2) continue;
        size_t at = ml_rng_below(rng, n - 1);
        const char *left = ml_tokenizer_piece(t, ids[at], &n_left);
        memcpy(bytes, left, n_left);
        const char *right = ml_tokenizer_piece(t, ids[at + 1], &n_right);
        if (n_left + n_right > TOKEN_MAX) continue;
        memcpy(bytes + n_left, right, n_right);
        bool is_new = true;
        for (int32_t id = 256; id < next; id++) {
            size_t n_piece;
            const char *piece = ml_tokenizer_piece(t, id, &n_piece);
            if (n_piece == n_left + n_right && !memcmp(piece, bytes, n_piece)) is_new = false;
        }
        if (!is_new) continue;
        assert_ok(ml_tokenizer_put_piece(t, next, bytes, n_left + n_right, 0, &err));
        merges[n_merge++] = (merge){ ids[at], ids[at + 1], next++ };
    }
    if (ml_rng_below(rng, 3) == 0) {
        for (size_t i = n_merge; i > 1; i--) {
            size_t j = ml_rng_below(rng, i);
            merge m = merges[i - 1];
            merges[i - 1] = merges[j];
            merges[j] = m;
        }
    }
    return n_merge;
}

static ml_tokenizer *random_tokenizer(ml_rng *rng)
{
    ml_tokenizer *t;
    merge merges[N_MERGE];
    assert_ok(ml_tokenizer_make("random", &t, &err));
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        assert_ok(ml_tokenizer_put_piece(t, i, &byte, 1, 0, &err));
    }
    size_t n = random_merges(rng, t, merges);
    assert_true(n > N_MERGE / 2);
    for (size_t i = 0; i < n; i++) {
        assert_ok(ml_tokenizer_put_merge(t, merges[i].left, merges[i].right, merges[i].result, &err));
    }
    assert_ok(ml_tokenizer_finish(t, &err));
    return t;
}

static void merging_follows_the_rule(void **state)
{
    (void)state;
    ml_rng rng = ml_rng_make(11, 3);
    size_t n_merged = 0;
    for (int k = 0; k < 300; k++) {
        ml_tokenizer *t = random_tokenizer(&rng);
        for (int i = 0; i < 20; i++) {
            char text[TEXT_MAX];
            int32_t wanted[TEXT_MAX];
            size_t n = random_text(&rng, text, 1 + ml_rng_below(&rng, i < 15 ? 12 : 90));
            for (size_t j = 0; j < n; j++) wanted[j] = (uint8_t)text[j];
            size_t n_wanted = merge_naively(t, wanted, n);
            n_merged += n - n_wanted;
            ml_ids ids = { 0 };
            assert_ok(ml_tokenizer_encode(t, text, n, false, &ids, &err));
            if (ids.n != n_wanted || memcmp(ids.id, wanted, n_wanted * sizeof *wanted) != 0) {
                fail_msg("vocabulary %d merges \"%.*s\" to %zu ids, expected %zu others", k, (int)n, text, ids.n,
                         n_wanted);
            }
            ml_ids_free(&ids);
        }
        ml_tokenizer_free(t);
    }
    assert_true(n_merged > 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(merging_follows_the_rule) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
