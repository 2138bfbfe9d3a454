#include "support/byte_tokenizer.h"

#include "base/json.h"
#include "support/support.h"

#include <stdio.h>
#include <string.h>

/* The letter that stands for a byte in GPT-2's vocabulary: itself if it prints, else one from U+0100 on, in order. */
static void byte_letter(int byte, char out[3])
{
    int code = 0, n_other = 0;
    for (int b = 0; b <= byte; b++) {
        bool prints = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        code = prints ? b : 0x100 + n_other++;
    }
    memset(out, 0, 3);
    if (code < 0x80) {
        out[0] = (char)code;
    } else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
    }
}

ml_tokenizer *test_byte_tokenizer(const char *folder, bool specials, int far_id)
{
    static const char *const special[] = { "[BOS]", "[EOS]" };
    ml_error err;
    char path[ML_PATH_MAX];
    json_t *vocab = json_object(), *added = json_array();
    for (int i = 0; i < 2; i++) {
        json_object_set_new(vocab, specials ? special[i] : i ? "ab" : "ba", json_integer(i));
        if (specials)
            json_array_append_new(added, json_pack("{s:i, s:s, s:b}", "id", i, "content", special[i], "special", 1));
    }
    for (int b = 0; b < 256; b++) {
        char letter[3];
        byte_letter(b, letter);
        json_object_set_new(vocab, letter, json_integer(b + 2));
    }
    if (far_id)
        json_array_append_new(added, json_pack("{s:i, s:s, s:b}", "id", far_id, "content", "[FAR]", "special", 1));
    json_t *root = json_pack("{s:s, s:o, s:{s:s, s:b, s:b}, s:{s:s, s:o, s:[]}}", "version", "1.0", "added_tokens",
                             added, "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 1,
                             "model", "type", "BPE", "vocab", vocab, "merges");
    assert_non_null(root);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    assert_ok(ml_json_save(root, path, &err));
    json_decref(root);
    root = specials ? json_pack("{s:s, s:s, s:b}", "bos_token", special[0], "eos_token", special[1], "add_bos_token", 1)
                    : json_object();
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    assert_ok(ml_json_save(root, path, &err));
    json_decref(root);
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(folder, &t, &err));
    return t;
}
