/* GGUF: files of others, our own, and files that lie. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "format/gguf.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

/* A file put together byte by byte, so that the reader is not tested by our writer. */
typedef struct {
    uint8_t bytes[4096];
    size_t n;
} image;

static void put(image *im, const void *p, size_t n)
{
    assert_true(im->n + n <= sizeof im->bytes);
    memcpy(im->bytes + im->n, p, n);
    im->n += n;
}

static void put32(image *im, uint32_t v)
{
    uint8_t b[4];
    ml_store_u32(b, v);
    put(im, b, 4);
}

static void put64(image *im, uint64_t v)
{
    uint8_t b[8];
    ml_store_u64(b, v);
    put(im, b, 8);
}

static void put_text(image *im, const char *text)
{
    put64(im, strlen(text));
    put(im, text, strlen(text));
}

static void put_key(image *im, const char *key, uint32_t type)
{
    put_text(im, key);
    put32(im, type);
}

static void put_head(image *im, uint64_t n_tensor, uint64_t n_key)
{
    put(im, "GGUF", 4);
    put32(im, 3);
    put64(im, n_tensor);
    put64(im, n_key);
}

static void put_tensor(image *im, const char *name, uint32_t n_dim, uint64_t dim0, uint64_t dim1, uint32_t type,
                       uint64_t offset)
{
    put_text(im, name);
    put32(im, n_dim);
    if (n_dim > 0) put64(im, dim0);
    if (n_dim > 1) put64(im, dim1);
    put32(im, type);
    put64(im, offset);
}

static void pad(image *im)
{
    while (im->n % 32) put(im, "", 1);
}

/* One key of each type, an array of numbers and one of texts, three tensors. */
static image small_file(void)
{
    image im = { .n = 0 };
    const uint16_t halves[4] = { 0x3c00, 0xc000, 0x3800, 0x0000 };
    const float floats[2] = { 1.5f, -3 };
    const double wide = -0.125;
    uint8_t block[34] = { 0x00, 0x3c };
    put_head(&im, 3, 12);
    put_key(&im, "u8", 0), put(&im, "\xff", 1);
    put_key(&im, "i8", 1), put(&im, "\xff", 1);
    put_key(&im, "u16", 2), put(&im, "\xff\xff", 2);
    put_key(&im, "i16", 3), put(&im, "\xfe\xff", 2);
    put_key(&im, "u32", 4), put32(&im, UINT32_MAX);
    put_key(&im, "i32", 5), put32(&im, (uint32_t)-7);
    put_key(&im, "f32", 6), put(&im, &floats[0], 4);
    put_key(&im, "bool", 7), put(&im, "\1", 1);
    put_key(&im, "text", 8), put_text(&im, "a text");
    put_key(&im, "texts", 9), put32(&im, 8), put64(&im, 3), put_text(&im, "x"), put_text(&im, ""), put_text(&im, "yz");
    put_key(&im, "numbers", 9), put32(&im, 5), put64(&im, 2), put32(&im, 1), put32(&im, (uint32_t)-1);
    put_key(&im, "f64", 12), put(&im, &wide, 8);
    put_tensor(&im, "half", 2, 2, 2, 1, 32);
    put_tensor(&im, "single", 1, 2, 0, 0, 0);
    put_tensor(&im, "block", 1, 32, 0, 8, 64);
    pad(&im);
    put(&im, floats, sizeof floats), pad(&im);
    put(&im, halves, sizeof halves), pad(&im);
    put(&im, block, sizeof block);
    return im;
}

static void test_reads_a_hand_made_file(void **state)
{
    (void)state;
    image im = small_file();
    ml_gguf *g;
    assert_true(ml_gguf_is(im.bytes, im.n));
    assert_ok(ml_gguf_open_memory(&g, im.bytes, im.n, "image", &err));
    assert_int_equal(ml_gguf_key_count(g), 12);
    assert_string_equal(ml_gguf_key_at(g, 3)->key, "i16");
    static const struct {
        const char *key;
        int64_t value;
    } integers[] = {
        { "u8", 255 }, { "i8", -1 }, { "u16", 65535 }, { "i16", -2 }, { "u32", UINT32_MAX }, { "i32", -7 }
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        int64_t value;
        assert_ok(ml_gguf_get_integer(g, integers[i].key, INT64_MIN, INT64_MAX, &value, &err));
        assert_int_equal(value, integers[i].value);
    }
    int64_t integer;
    double number;
    bool yes;
    assert_fails(ml_gguf_get_integer(g, "u16", 0, 100, &integer, &err), ML_EFORMAT,
                 "key u16: expected 0 to 100, found 65535");
    assert_fails(ml_gguf_get_integer(g, "f32", 0, 9, &integer, &err), ML_EFORMAT,
                 "key f32: expected a whole number, found f32");
    assert_fails(ml_gguf_get_integer(g, "none", 0, 9, &integer, &err), ML_EFORMAT,
                 "image: key none: expected a whole number");
    assert_ok(ml_gguf_get_number(g, "f32", &number, &err));
    assert_true(number == 1.5);
    assert_ok(ml_gguf_get_number(g, "f64", &number, &err));
    assert_true(number == -0.125);
    assert_ok(ml_gguf_get_number(g, "i32", &number, &err));
    assert_true(number == -7);
    assert_fails(ml_gguf_get_number(g, "text", &number, &err), ML_EFORMAT, "expected a number, found text");
    assert_ok(ml_gguf_get_bool(g, "bool", &yes, &err));
    assert_true(yes);
    assert_fails(ml_gguf_get_bool(g, "u8", &yes, &err), ML_EFORMAT, "expected a bool, found u8");
    char *text;
    assert_ok(ml_gguf_copy_text(g, "text", &text, &err));
    assert_string_equal(text, "a text");
    ml_free(text);
    const ml_gguf_value *array;
    assert_ok(ml_gguf_get_array(g, "numbers", ML_GGUF_I32, &array, &err));
    assert_true(array->n == 2 && ml_gguf_integer(array, 1) == -1 && ml_gguf_number(array, 0) == 1);
    assert_fails(ml_gguf_get_array(g, "numbers", ML_GGUF_U32, &array, &err), ML_EFORMAT,
                 "expected an array of u32, found an array of i32");
    assert_ok(ml_gguf_get_array(g, "texts", ML_GGUF_TEXT, &array, &err));
    static const char *const texts[] = { "x", "", "yz" };
    const char *p;
    size_t at = 0, n, count = 0;
    while (ml_gguf_next_text(array, &at, &p, &n)) {
        assert_true(count < 3 && n == strlen(texts[count]) && !memcmp(p, texts[count], n));
        count++;
    }
    assert_int_equal(count, 3);
    const ml_gguf_tensor *t;
    const int64_t shape[2] = { 2, 2 }, wrong[2] = { 4, 1 };
    assert_int_equal(ml_gguf_count(g), 3);
    assert_ok(ml_gguf_get(g, "half", 2, shape, &t, &err));
    float out[4];
    assert_int_equal(t->dtype, ML_F16);
    ml_convert_to_f32(t->dtype, t->data, out, 4);
    assert_true(out[0] == 1 && out[1] == -2 && out[2] == 0.5f && out[3] == 0);
    assert_fails(ml_gguf_get(g, "half", 2, wrong, &t, &err), ML_EFORMAT,
                 "tensor half: expected shape [4, 1] as the metadata says, found [2, 2]");
    assert_fails(ml_gguf_get(g, "none", -1, NULL, &t, &err), ML_EFORMAT, "tensor none: is missing");
    assert_int_equal(ml_gguf_find(g, "block")->n_bytes, 34);
    assert_int_equal(ml_gguf_find(g, "block")->dtype, ML_Q8_0);
    assert_int_equal(ml_gguf_find(g, "single")->n_element, 2);
    ml_gguf_close(g);
}

/* stories260K.bin holds the same model in llama2.c's format: seven integers, then the tensors end to end. */
static void expect_floats(const ml_gguf *g, const char *name, int64_t rows, int64_t columns, const uint8_t *expected)
{
    const ml_gguf_tensor *t;
    const int64_t matrix[2] = { rows, columns };
    assert_ok(ml_gguf_get(g, name, rows ? 2 : 1, rows ? matrix : matrix + 1, &t, &err));
    assert_int_equal(t->dtype, ML_F32);
    assert_int_equal((uintptr_t)t->data % 32, 0);
    assert_memory_equal(t->data, expected, t->n_bytes);
}

static void test_reads_a_published_file(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    static const struct {
        const char *name;
        int64_t rows, columns;
    } parts[] = { /* in the order of the .bin file, each for all layers */
                  { "attn_norm", 0, 64 },  { "attn_q", 64, 64 },      { "attn_k", 32, 64 },
                  { "attn_v", 32, 64 },    { "attn_output", 64, 64 }, { "ffn_norm", 0, 64 },
                  { "ffn_gate", 172, 64 }, { "ffn_down", 64, 172 },   { "ffn_up", 172, 64 }
    };
    ml_gguf *g;
    ml_map bin;
    assert_ok(ml_map_open(test_data_path("models/stories260K.bin"), &bin, &err));
    assert_ok(ml_gguf_open(&g, test_data_path("models/stories260K.gguf"), &err));
    assert_int_equal(ml_gguf_count(g), 48);
    assert_int_equal(ml_gguf_key_count(g), 19);
    static const struct {
        const char *key;
        int64_t value;
    } keys[] = { { "llama.embedding_length", 64 },
                 { "llama.feed_forward_length", 172 },
                 { "llama.block_count", 5 },
                 { "llama.attention.head_count", 8 },
                 { "llama.attention.head_count_kv", 4 },
                 { "llama.rope.dimension_count", 8 },
                 { "llama.context_length", 128 } };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t value;
        assert_ok(ml_gguf_get_integer(g, keys[i].key, 0, 1000, &value, &err));
        assert_int_equal(value, keys[i].value);
    }
    double eps;
    assert_ok(ml_gguf_get_number(g, "llama.attention.layer_norm_rms_epsilon", &eps, &err));
    assert_true((float)eps == 1e-5f);
    const uint8_t *p = bin.data + 7 * 4;
    expect_floats(g, "token_embd.weight", 512, 64, p);
    expect_floats(g, "output.weight", 512, 64, p); /* tied there */
    p += 512 * 64 * 4;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        for (int layer = 0; layer < 5; layer++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", layer, parts[i].name);
            expect_floats(g, name, parts[i].rows, parts[i].columns, p);
            p += (parts[i].rows ? parts[i].rows : 1) * parts[i].columns * 4;
        }
    }
    expect_floats(g, "output_norm.weight", 0, 64, p);
    ml_gguf_close(g);
    ml_map_close(&bin);
}

static void write_file(const char *path, int no, int count, const char *suffix)
{
    ml_gguf_writer *w;
    const int64_t matrix[2] = { 3, 256 }, none[1] = { 0 }, vector[1] = { 5 };
    const float values[5] = { 0, 1, 2, 3, 4 };
    const int32_t types[2] = { 1, -6 };
    uint8_t blocks[3 * 144];
    char name[32];
    for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)(i * 7);
    assert_ok(ml_gguf_writer_begin(&w, path, &err));
    assert_ok(ml_gguf_writer_set_text(w, "general.architecture", "test", &err));
    assert_ok(ml_gguf_writer_set_u32(w, "n", 17, &err));
    assert_ok(ml_gguf_writer_set_u64(w, "wide", UINT64_C(1) << 40, &err));
    assert_ok(ml_gguf_writer_set_f32(w, "scale", 2.446f, &err));
    assert_ok(ml_gguf_writer_set_bool(w, "norm", true, &err));
    assert_ok(ml_gguf_writer_set_array(w, "types", ML_GGUF_I32, types, 2, &err));
    assert_ok(ml_gguf_writer_set_texts(w, "texts", 2, &err));
    assert_fails(ml_gguf_writer_set_u32(w, "m", 1, &err), ML_EINVAL, "before the array of texts was complete");
    assert_ok(ml_gguf_writer_add_text(w, "a\0b", 3, &err));
    assert_ok(ml_gguf_writer_add_text(w, "", 0, &err));
    assert_fails(ml_gguf_writer_set_u32(w, "n", 1, &err), ML_EINVAL, "key n: was given twice");
    if (count) {
        assert_ok(ml_gguf_writer_set_u32(w, "split.no", (uint32_t)no, &err));
        assert_ok(ml_gguf_writer_set_u32(w, "split.count", (uint32_t)count, &err));
    }
    snprintf(name, sizeof name, "matrix%s", suffix);
    assert_ok(ml_gguf_writer_declare(w, name, ML_Q4_K, 2, matrix, &err));
    assert_fails(ml_gguf_writer_declare(w, name, ML_Q4_K, 2, matrix, &err), ML_EINVAL, "was given twice");
    assert_fails(ml_gguf_writer_declare(w, "bad", ML_Q4_K, 1, vector, &err), ML_EINVAL, "tensor bad: its shape");
    snprintf(name, sizeof name, "none%s", suffix);
    assert_ok(ml_gguf_writer_declare(w, name, ML_F32, 1, none, &err));
    snprintf(name, sizeof name, "vector%s", suffix);
    assert_ok(ml_gguf_writer_declare(w, name, ML_F32, 1, vector, &err));
    assert_int_equal(ml_gguf_writer_bytes(w), 448 + 32);
    assert_ok(ml_gguf_writer_start(w, &err));
    assert_ok(ml_gguf_writer_put(w, blocks, 100, &err));
    assert_fails(ml_gguf_writer_put(w, blocks, sizeof blocks, &err), ML_EINVAL, "more data is given");
    assert_ok(ml_gguf_writer_put(w, blocks + 100, sizeof blocks - 100, &err));
    assert_fails(ml_gguf_writer_end(w, &err), ML_EINVAL, "did not get all its data");
    assert_false(ml_path_exists(path));
    assert_ok(ml_gguf_writer_put(w, values, sizeof values, &err));
    assert_fails(ml_gguf_writer_put(w, values, 1, &err), ML_EINVAL, "more data than was declared");
    assert_ok(ml_gguf_writer_end(w, &err));
    ml_gguf_writer_free(w);
}

static void test_round_trip(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], copy[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "a.gguf", &err));
    assert_ok(ml_path_join(copy, folder, "b.gguf", &err));
    write_file(path, 0, 0, "");
    ml_gguf *g;
    assert_ok(ml_gguf_open(&g, path, &err));
    assert_int_equal(ml_gguf_count(g), 3);
    const ml_gguf_tensor *t = ml_gguf_find(g, "matrix");
    assert_true(t->n_dim == 2 && t->shape[0] == 3 && t->shape[1] == 256 && t->n_bytes == 432 && t->offset % 32 == 0);
    assert_int_equal(t->data[431], (uint8_t)(431 * 7));
    assert_int_equal(ml_gguf_find(g, "none")->n_element, 0);
    float last;
    memcpy(&last, ml_gguf_find(g, "vector")->data + 16, 4);
    assert_true(last == 4);
    const ml_gguf_value *v = ml_gguf_find_key(g, "texts");
    const char *text;
    size_t at = 0, n;
    assert_true(ml_gguf_next_text(v, &at, &text, &n) && n == 3 && !memcmp(text, "a\0b", 3));
    assert_true(ml_gguf_next_text(v, &at, &text, &n) && n == 0 && !ml_gguf_next_text(v, &at, &text, &n));
    int64_t wide;
    assert_ok(ml_gguf_get_integer(g, "wide", 0, INT64_MAX, &wide, &err));
    assert_int_equal(wide, INT64_C(1) << 40);
    /* Values and tensors copied one by one give the same file. */
    ml_gguf_writer *w;
    assert_ok(ml_gguf_writer_begin(&w, copy, &err));
    for (size_t i = 0; i < ml_gguf_key_count(g); i++)
        assert_ok(ml_gguf_writer_set_value(w, ml_gguf_key_at(g, i), &err));
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        t = ml_gguf_at(g, i);
        assert_ok(ml_gguf_writer_declare(w, t->name, t->dtype, t->n_dim, t->shape, &err));
    }
    assert_ok(ml_gguf_writer_start(w, &err));
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        assert_ok(ml_gguf_writer_put(w, ml_gguf_at(g, i)->data, ml_gguf_at(g, i)->n_bytes, &err));
    }
    assert_ok(ml_gguf_writer_end(w, &err));
    ml_gguf_writer_free(w);
    ml_gguf_close(g);
    ml_map a, b;
    assert_ok(ml_map_open(path, &a, &err));
    assert_ok(ml_map_open(copy, &b, &err));
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    ml_map_close(&a);
    ml_map_close(&b);
    test_remove_folder(folder);
}

static void test_split_set(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[2][ML_PATH_MAX], other[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path[0], folder, "m-00001-of-00002.gguf", &err));
    assert_ok(ml_path_join(path[1], folder, "m-00002-of-00002.gguf", &err));
    assert_ok(ml_path_join(other, folder, "m.gguf", &err));
    write_file(path[0], 0, 2, ".0");
    ml_gguf *g;
    assert_fails(ml_gguf_open(&g, path[0], &err), ML_EIO, "00002-of-00002.gguf");
    write_file(path[1], 1, 2, ".1");
    for (int i = 0; i < 2; i++) {
        assert_ok(ml_gguf_open(&g, path[i], &err));
        assert_int_equal(ml_gguf_count(g), 6);
        assert_string_equal(ml_gguf_find(g, "vector.1")->file, path[1]);
        assert_string_equal(ml_gguf_path(g), path[0]);
        ml_gguf_close(g);
    }
    assert_int_equal(rename(path[1], other), 0);
    assert_fails(ml_gguf_open(&g, other, &err), ML_EFORMAT, "key split.count: is one of 2 files");
    write_file(path[1], 0, 2, ".1");
    assert_fails(ml_gguf_open(&g, path[0], &err), ML_EFORMAT, "split.no and split.count: expected 1 and 2");
    assert_int_equal(remove(path[1]), 0);
    write_file(path[1], 1, 2, ".0");
    assert_fails(ml_gguf_open(&g, path[0], &err), ML_EFORMAT, "tensor matrix.0: is there twice");
    test_remove_folder(folder);
}

static void expect_refusal(const image *im, const char *part)
{
    ml_gguf *g;
    assert_fails(ml_gguf_open_memory(&g, im->bytes, im->n, "lie", &err), ML_EFORMAT, part);
    if (strncmp(err.message, "lie: ", 5)) fail_msg("message \"%s\" does not name the file", err.message);
    assert_null(g);
}

/* One tensor of this description before 64 bytes of data. */
static void expect_tensor_refusal(uint32_t n_dim, uint64_t dim0, uint64_t dim1, uint32_t type, uint64_t offset,
                                  const char *part)
{
    image im = { .n = 0 };
    put_head(&im, 1, 0);
    put_tensor(&im, "x", n_dim, dim0, dim1, type, offset);
    pad(&im);
    put64(&im, 0), put64(&im, 0), pad(&im);
    put64(&im, 0), pad(&im);
    expect_refusal(&im, part);
}

static void test_refuses_lies(void **state)
{
    (void)state;
    expect_tensor_refusal(5, 1, 1, 0, 0, "expected at most 4 dimensions, found 5");
    expect_tensor_refusal(2, UINT64_C(1) << 32, UINT64_C(1) << 32, 0, 0, "overflows");
    expect_tensor_refusal(1, UINT64_MAX, 0, 0, 0, "overflows");
    expect_tensor_refusal(1, INT64_MAX, 0, 0, 0, "a size that fits");
    expect_tensor_refusal(1, 16, 0, 99, 0, "tensor x: offset 45: element type 99 (unknown)");
    expect_tensor_refusal(1, 256, 0, 16, 0, "element type 16 (iq2_xxs)");
    expect_tensor_refusal(1, 33, 0, 8, 0, "rows of 33 elements of q8_0: expected a multiple of 32");
    expect_tensor_refusal(1, 4, 0, 0, 8, "expected a multiple of 32");
    expect_tensor_refusal(1, 4, 0, 0, UINT64_MAX - 31, "within the file's");
    expect_tensor_refusal(1, 17, 0, 0, 0, "tensor x: 68 bytes at offset 0 of the data, but the file has 64");
    expect_tensor_refusal(1, 16, 0, 0, 32, "tensor x: 64 bytes at offset 32");

    image im = { .n = 0 };
    put_head(&im, 2, 0);
    put_tensor(&im, "x", 1, 16, 0, 0, 0);
    put_tensor(&im, "y", 1, 4, 0, 0, 32);
    pad(&im), put64(&im, 1), pad(&im), put64(&im, 1), pad(&im);
    expect_refusal(&im, "tensor y: its data at offset 128 overlaps that of x");

    im.n = 0, put_head(&im, 2, 0);
    put_tensor(&im, "x", 1, 0, 0, 0, 0), put_tensor(&im, "x", 1, 0, 0, 0, 0);
    expect_refusal(&im, "tensor x: is there twice");
    im.n = 0, put_head(&im, 0, 2);
    put_key(&im, "k", 0), put(&im, "", 1), put_key(&im, "k", 0), put(&im, "", 1);
    expect_refusal(&im, "key k: is there twice");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "k", 13), put64(&im, 0);
    expect_refusal(&im, "key k: offset 33: value type 13");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "k", 7), put(&im, "\2", 1), put64(&im, 0);
    expect_refusal(&im, "expected a bool, found 2");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "k", 9), put32(&im, 9), put64(&im, 1), put64(&im, 1);
    expect_refusal(&im, "an array of arrays");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "k", 9), put32(&im, 10), put64(&im, UINT64_MAX / 8 + 1);
    expect_refusal(&im, "values of type u64, but 0 bytes are left");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "k", 9), put32(&im, 8), put64(&im, UINT64_MAX);
    expect_refusal(&im, "values of type text, but 0 bytes are left");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "k", 8), put64(&im, UINT64_MAX);
    expect_refusal(&im, "key k: offset 37: a text of 18446744073709551615 bytes");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "", 8), put64(&im, 0);
    expect_refusal(&im, "key 0: expected a name");
    im.n = 0, put_head(&im, UINT64_MAX / 33, 0), put64(&im, 0);
    expect_refusal(&im, "offset 8: 558992244657865200 tensors");
    im.n = 0, put_head(&im, 0, 60000), put64(&im, 0);
    expect_refusal(&im, "60000 keys");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "general.alignment", 4), put32(&im, 24);
    expect_refusal(&im, "key general.alignment: expected a power of two");
    im.n = 0, put_head(&im, 0, 1), put_key(&im, "general.alignment", 8), put_text(&im, "32");
    expect_refusal(&im, "key general.alignment: expected a power of two");
    im.n = 0, put_head(&im, 0, 0), im.bytes[4] = 1;
    expect_refusal(&im, "expected version 2 or 3, found 1");
    im.bytes[4] = 0, im.bytes[7] = 3;
    expect_refusal(&im, "big-endian");
    im.bytes[0] = 'g';
    expect_refusal(&im, "this is no GGUF file");
    ml_gguf *g;
    assert_fails(ml_gguf_open(&g, "/nonexistent/x.gguf", &err), ML_EIO, "No such file");
}

static double touch(const ml_gguf *g)
{
    double sum = 0;
    for (size_t i = 0; i < ml_gguf_key_count(g); i++) {
        const ml_gguf_value *v = ml_gguf_key_at(g, i);
        const char *text;
        size_t at = 0, n, count = 0;
        assert_ptr_equal(ml_gguf_find_key(g, v->key), v);
        if (v->element == ML_GGUF_TEXT) {
            while (ml_gguf_next_text(v, &at, &text, &n)) {
                for (size_t k = 0; k < n; k++) sum += text[k];
                count++;
            }
            assert_int_equal(count, v->n);
        } else {
            for (size_t k = 0; k < v->n; k++) sum += ml_gguf_number(v, k);
        }
    }
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *t = ml_gguf_at(g, i);
        for (size_t k = 0; k < t->n_bytes; k++) sum += t->data[k];
    }
    return sum;
}

/* Open bytes in a block of exactly their size, so that a sanitizer sees every byte read beyond it. */
static bool try_bytes(const uint8_t *bytes, size_t n)
{
    ml_gguf *g;
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    ml_status status = ml_gguf_open_memory(&g, copy, n, "bytes", &err);
    if (status == ML_OK) {
        (void)touch(g);
        ml_gguf_close(g);
    } else {
        assert_int_equal(status, ML_EFORMAT);
        assert_true(strlen(err.message) > 8);
    }
    free(copy);
    return status == ML_OK;
}

static void test_survives_damage(void **state)
{
    (void)state;
    image im = small_file();
    ml_alloc_stats before = ml_alloc_get_stats();
    for (size_t n = 0; n < im.n; n++) assert_false(try_bytes(im.bytes, n));
    assert_true(try_bytes(im.bytes, im.n));
    for (size_t i = 0; i < im.n; i++) {
        uint8_t old = im.bytes[i];
        const uint8_t changes[4] = { 0, 0xff, (uint8_t)~old, (uint8_t)(old + 1) };
        for (int j = 0; j < 4; j++) {
            im.bytes[i] = changes[j];
            bool opened = try_bytes(im.bytes, im.n);
            if (i >= im.n - 34) assert_true(opened); /* any bytes are data */
        }
        im.bytes[i] = old;
    }
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
}

static void test_survives_lack_of_memory(void **state)
{
    (void)state;
    image im = small_file();
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "x.gguf", &err));
    ml_alloc_stats before = ml_alloc_get_stats();
    ml_status status = ML_ENOMEM;
    int64_t n = 0;
    for (; status != ML_OK && n < 1000; n++) {
        ml_gguf *g;
        ml_alloc_fail_after(n);
        status = ml_gguf_open_memory(&g, im.bytes, im.n, "image", &err);
        ml_alloc_fail_after(-1);
        assert_true(status == ML_OK || status == ML_ENOMEM);
        ml_gguf_close(g);
    }
    assert_true(n > 5 && status == ML_OK);
    const int64_t shape[1] = { 2 };
    for (n = 0, status = ML_ENOMEM; status != ML_OK && n < 1000; n++) {
        ml_gguf_writer *w;
        ml_alloc_fail_after(n);
        status = ml_gguf_writer_begin(&w, path, &err);
        if (status == ML_OK) status = ml_gguf_writer_set_text(w, "key", "value", &err);
        if (status == ML_OK) status = ml_gguf_writer_declare(w, "x", ML_F32, 1, shape, &err);
        if (status == ML_OK) status = ml_gguf_writer_start(w, &err);
        if (status == ML_OK) status = ml_gguf_writer_put(w, "12345678", 8, &err);
        if (status == ML_OK) status = ml_gguf_writer_end(w, &err);
        ml_alloc_fail_after(-1);
        assert_true(status == ML_OK || status == ML_ENOMEM);
        ml_gguf_writer_free(w);
    }
    assert_true(n > 5 && status == ML_OK);
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_hand_made_file),
        cmocka_unit_test(test_reads_a_published_file),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_split_set),
        cmocka_unit_test(test_refuses_lies),
        cmocka_unit_test(test_survives_damage),
        cmocka_unit_test(test_survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
