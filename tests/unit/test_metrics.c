/* log.jsonl and TensorBoard events.  `test_metrics --write DIR` writes the resumed sample run into DIR instead, for
 * tests/interop/check_tensorboard.py. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/json.h"
#include "support/support.h"
#include "train/metrics.h"
#include "train/tfevents.h"

#include <math.h>
#include <string.h>

static ml_error err;

/* RFC 3720, appendix B.4, and the check value of the CRC catalogue. */
static void test_crc32c_matches_published_vectors(void **state)
{
    (void)state;
    uint8_t block[32];
    assert_int_equal(ml_crc32c("123456789", 9), 0xe3069283);
    assert_int_equal(ml_crc32c("", 0), 0);
    memset(block, 0, sizeof block);
    assert_int_equal(ml_crc32c(block, 32), 0x8a9136aa);
    memset(block, 0xff, sizeof block);
    assert_int_equal(ml_crc32c(block, 32), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++) block[i] = i;
    assert_int_equal(ml_crc32c(block, 32), 0x46dd794e);
}

/* A reader of its own: frames, then protobuf fields of any message. */

typedef struct {
    const uint8_t *p, *end;
} span;

typedef struct {
    int field, wire;
    uint64_t number; /* varint or fixed */
    span bytes;
} proto_field;

static uint64_t read_varint(span *s)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(s->p < s->end && shift < 64);
        v |= (uint64_t)(*s->p & 0x7f) << shift;
        if (!(*s->p++ & 0x80)) return v;
    }
}

static bool next_field(span *s, proto_field *f)
{
    if (s->p == s->end) return false;
    uint64_t key = read_varint(s);
    *f = (proto_field){ .field = (int)(key >> 3), .wire = (int)(key & 7) };
    size_t n = 0;
    switch (f->wire) {
    case 0: f->number = read_varint(s); return true;
    case 1: n = 8; break;
    case 2: n = (size_t)read_varint(s); break;
    case 5: n = 4; break;
    default: fail_msg("wire type %d", f->wire);
    }
    assert_true(n <= (size_t)(s->end - s->p));
    f->bytes = (span){ s->p, s->p + n };
    if (f->wire == 1) f->number = ml_load_u64(s->p);
    if (f->wire == 5) f->number = ml_load_u32(s->p);
    s->p += n;
    return true;
}

static span next_record(span *s)
{
    assert_true(s->end - s->p >= 16);
    uint64_t n = ml_load_u64(s->p);
    assert_true(n <= (uint64_t)(s->end - s->p) - 16);
    span payload = { s->p + 12, s->p + 12 + n };
    uint32_t stored[2] = { ml_load_u32(s->p + 8), ml_load_u32(payload.end) };
    uint32_t crc[2] = { ml_crc32c(s->p, 8), ml_crc32c(payload.p, (size_t)n) };
    for (int i = 0; i < 2; i++) { /* undo the mask */
        uint32_t rotated = stored[i] - 0xa282ead8u;
        assert_int_equal(rotated << 15 | rotated >> 17, crc[i]);
    }
    s->p = payload.end + 4;
    return payload;
}

/* The one event file of a folder, read. */
static char *read_events(const char *folder, size_t *size)
{
    char **names, path[ML_PATH_MAX], *bytes = NULL;
    size_t n;
    assert_ok(ml_dir_list(folder, &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        if (strncmp(names[i], "events.out.tfevents.", 20)) continue;
        assert_null(bytes);
        assert_ok(ml_path_join(path, folder, names[i], &err));
        assert_ok(ml_file_read(path, &bytes, size, &err));
    }
    ml_dir_list_free(names, n);
    assert_non_null(bytes);
    return bytes;
}

static void test_tfevents_decode(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    ml_tfevents *t;
    assert_ok(ml_tfevents_open(&t, folder, 301, &err));
    const ml_tfevents_scalar scalars[] = { { "train/loss", 2.5f }, { "x", -1e-20f } };
    assert_ok(ml_tfevents_write(t, 300, 1234.5, scalars, 2, &err));
    size_t size;
    char *bytes = read_events(folder, &size); /* before closing: each call reaches the file */
    span file = { (uint8_t *)bytes, (uint8_t *)bytes + size }, summary = { 0 };
    proto_field f;

    span event = next_record(&file);
    bool has_version = false;
    while (next_field(&event, &f)) {
        if (f.field == 3) has_version = !memcmp(f.bytes.p, "brain.Event:2", 13) && f.bytes.end - f.bytes.p == 13;
    }
    assert_true(has_version);

    event = next_record(&file); /* time, step 301, SessionLog {status: START} */
    assert_true(next_field(&event, &f) && f.field == 1);
    assert_true(next_field(&event, &f) && f.field == 2 && f.number == 301);
    assert_true(next_field(&event, &f) && f.field == 7);
    assert_true(f.bytes.end - f.bytes.p == 2 && !memcmp(f.bytes.p, "\x08\x01", 2));

    event = next_record(&file);
    assert_true(file.p == file.end);
    while (next_field(&event, &f)) {
        double wall_time;
        memcpy(&wall_time, &f.number, sizeof wall_time);
        if (f.field == 1) assert_true(wall_time == 1234.5);
        if (f.field == 2) assert_int_equal(f.number, 300);
        if (f.field == 5) summary = f.bytes;
    }
    for (int i = 0; i < 2; i++) {
        proto_field value, tag, number;
        assert_true(next_field(&summary, &value) && value.field == 1);
        assert_true(next_field(&value.bytes, &tag) && tag.field == 1);
        assert_true(next_field(&value.bytes, &number) && number.field == 2 && number.wire == 5);
        assert_memory_equal(tag.bytes.p, scalars[i].tag, strlen(scalars[i].tag));
        uint32_t bits;
        memcpy(&bits, &scalars[i].value, sizeof bits);
        assert_int_equal(number.number, bits);
    }
    assert_true(summary.p == summary.end);
    ml_free(bytes);
    ml_tfevents_close(t);
    test_remove_folder(folder);
}

static ml_metrics_step sample(int64_t step, double loss)
{
    static const float load[2] = { 1.25f, 3.1f }, entropy[2] = { 2.07944154f, NAN };
    static const ml_metrics_extra extra[1] = { { "reward_accuracy", 0.7 } };
    return (ml_metrics_step){ .step = step,
                              .tokens = step * 32768,
                              .loss = loss,
                              .ce = loss - 0.01,
                              .aux = 1.0145,
                              .z = 2.06,
                              .lr = 3e-4,
                              .grad_norm = 1.0 / 3,
                              .update_rms = 0.2,
                              .n_moe_layer = 2,
                              .max_load = load,
                              .router_entropy = entropy,
                              .tps = 107800.4,
                              .mfu = 0.41,
                              .mem_mb = 512,
                              .seconds = 0.3,
                              .extra = extra,
                              .n_extra = 1 };
}

static char *read_name(const char *folder, const char *name, size_t *size)
{
    char path[ML_PATH_MAX], *text;
    assert_ok(ml_path_join(path, folder, name, &err));
    assert_ok(ml_file_read(path, &text, size, &err));
    return text;
}

static void write_steps(const char *folder, int64_t resumed_at, int64_t last, double loss)
{
    ml_metrics *m;
    assert_ok(ml_metrics_open(&m, folder, resumed_at, &err));
    for (int64_t step = resumed_at + 1; step <= last; step++) {
        ml_metrics_step s = sample(step, loss);
        assert_ok(ml_metrics_write_step(m, &s, &err));
        if (step % 5 == 0) assert_ok(ml_metrics_write_eval(m, step, loss + 0.5, NULL, 0, &err));
    }
    ml_metrics_close(m);
}

static void test_log_lines(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    ml_metrics *m;
    ml_metrics_step s = sample(3, 9.251);
    const ml_metrics_extra extra = { "accuracy", INFINITY };
    assert_ok(ml_metrics_open(&m, folder, 0, &err));
    assert_ok(ml_metrics_write_step(m, &s, &err));
    assert_ok(ml_metrics_write_eval(m, 3, 0.1, &extra, 1, &err));
    ml_metrics_close(m);
    char *text = read_name(folder, "log.jsonl", NULL);
    assert_string_equal(text, "{\"step\":3,\"tokens\":98304,\"loss\":9.251,\"ce\":9.241,\"aux\":1.0145,\"z\":2.06,"
                              "\"lr\":0.0003,\"grad_norm\":0.3333333333333333,\"update_rms\":0.2,"
                              "\"max_load\":[1.25,3.1],\"router_entropy\":[2.0794415,null],\"tps\":107800.4,"
                              "\"mfu\":0.41,\"mem_mb\":512,\"seconds\":0.3,\"reward_accuracy\":0.7}\n"
                              "{\"step\":3,\"val_loss\":0.1,\"accuracy\":null}\n");
    ml_free(text);
    test_remove_folder(folder);
}

/* Steps of a log's lines, checked to be JSON. */
static size_t read_steps(const char *folder, const char *name, int64_t *steps, size_t capacity)
{
    size_t n = 0;
    char *text = read_name(folder, name, NULL);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *json;
        assert_ok(ml_json_parse(line, (size_t)(end - line), name, &json, &err));
        assert_true(n < capacity);
        steps[n++] = json_integer_value(json_object_get(json, "step"));
        json_decref(json);
    }
    ml_free(text);
    return n;
}

static void test_resume_cuts_the_log(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    int64_t steps[32];
    strcpy(folder, test_make_folder());
    write_steps(folder, 0, 8, 1);
    assert_ok(ml_path_join(path, folder, "log.jsonl", &err));
    FILE *file = fopen(path, "a");
    fputs("{\"step\":9,\"tok", file); /* torn by kill -9 */
    fclose(file);

    write_steps(folder, 6, 7, 2);
    const int64_t expected[] = { 1, 2, 3, 4, 5, 5, 6, 7 }, lost[] = { 7, 8 };
    assert_int_equal(read_steps(folder, "log.jsonl", steps, 32), 8);
    assert_memory_equal(steps, expected, sizeof expected);
    assert_int_equal(read_steps(folder, "log.after_000006.jsonl", steps, 32), 2);
    assert_memory_equal(steps, lost, sizeof lost);
    char *text = read_name(folder, "log.jsonl", NULL);
    assert_non_null(strstr(text, "{\"step\":7,\"tokens\":229376,\"loss\":2,"));
    ml_free(text);

    write_steps(folder, 6, 6, 3); /* once more from there: what is lost is added */
    assert_int_equal(read_steps(folder, "log.jsonl", steps, 32), 7);
    assert_int_equal(read_steps(folder, "log.after_000006.jsonl", steps, 32), 3);

    ml_metrics *m;
    assert_ok(ml_file_replace(path, "{\"step\":1}\n{\"loss\":1}\n", 22, &err));
    assert_fails(ml_metrics_open(&m, folder, 0, &err), ML_EFORMAT, "log.jsonl: line 2: key \"step\"");
    test_remove_folder(folder);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    write_steps(folder, 0, 3, 1);
    ml_alloc_stats before = ml_alloc_get_stats();
    for (int64_t n = 0;; n++) {
        ml_metrics *m = NULL;
        ml_metrics_step s = sample(3, 1);
        ml_alloc_fail_after(n);
        ml_status status = ml_metrics_open(&m, folder, 2, &err);
        if (status == ML_OK) status = ml_metrics_write_step(m, &s, &err);
        ml_alloc_fail_after(-1);
        ml_metrics_close(m);
        assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
        if (status == ML_OK) break;
        assert_int_equal(status, ML_ENOMEM);
        assert_true(n < 100);
    }
    test_remove_folder(folder);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--write")) {
        write_steps(argv[2], 0, 12, 1);
        write_steps(argv[2], 10, 15, 2);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c_matches_published_vectors),
        cmocka_unit_test(test_tfevents_decode),
        cmocka_unit_test(test_log_lines),
        cmocka_unit_test(test_resume_cuts_the_log),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
