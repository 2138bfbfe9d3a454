/* safetensors: files of others, our own, and files that lie. */
#include "base/alloc.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static ml_error err;

/* A file in memory: header length, header, then n_data bytes 0, 1, 2, ... */
typedef struct {
    uint8_t bytes[2048];
    size_t n;
} image;

static image make_image(const char *header, size_t n_data)
{
    image im = { .n = 8 + strlen(header) + n_data };
    im.bytes[0] = (uint8_t)strlen(header);
    im.bytes[1] = (uint8_t)(strlen(header) >> 8);
    memcpy(im.bytes + 8, header, strlen(header));
    for (size_t i = 0; i < n_data; i++) im.bytes[8 + strlen(header) + i] = (uint8_t)i;
    return im;
}

static const char small_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[8,16]},"
                                   "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                                   "\"e\":{\"dtype\":\"I64\",\"shape\":[0,3],\"data_offsets\":[16,16]},"
                                   "\"i\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[16,20]}}";

static void test_reads_a_hand_made_file(void **state)
{
    (void)state;
    image im = make_image(small_header, 20);
    uint8_t *data = im.bytes + im.n - 20;
    const uint16_t halves[4] = { 0x3f80, 0xc000, 0x3e80, 0x7f80 }; /* 1, -2, 0.25, inf */
    const float floats[2] = { 1.5f, -0.0f };
    const int32_t whole = -7;
    memcpy(data, floats, 8);
    memcpy(data + 8, halves, 8);
    memcpy(data + 16, &whole, 4);
    ml_safetensors *s;
    assert_ok(ml_safetensors_open_memory(&s, im.bytes, im.n, "image", &err));
    assert_int_equal(ml_safetensors_count(s), 4);
    assert_string_equal(ml_safetensors_at(s, 0)->name, "a");
    assert_string_equal(ml_safetensors_at(s, 1)->name, "b");
    assert_string_equal(ml_safetensors_metadata(s, "format"), "pt");
    assert_null(ml_safetensors_metadata(s, "none"));
    const ml_st_tensor *t;
    const int64_t shape[2] = { 2, 2 }, wrong[2] = { 2, 3 };
    assert_ok(ml_safetensors_get(s, "b", 2, shape, &t, &err));
    assert_fails(ml_safetensors_get(s, "b", 2, wrong, &t, &err), ML_EFORMAT,
                 "image: tensor b: expected shape [2, 3], found [2, 2]");
    assert_fails(ml_safetensors_get(s, "c", -1, NULL, &t, &err), ML_EFORMAT, "tensor c: is missing");
    float out[4];
    assert_ok(ml_st_read_f32(t, 1, 1, out, &err));
    assert_true(out[0] == 0.25f && isinf(out[1]));
    assert_fails(ml_st_read_f32(t, 1, 2, out, &err), ML_EINVAL, "has 2 rows, asked for rows 1 to 3");
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "a"), out, &err));
    assert_true(out[0] == 1.5f && out[1] == 0 && signbit(out[1]));
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "i"), out, &err));
    assert_true(out[0] == -7);
    int64_t value;
    assert_ok(ml_st_read_all_i64(ml_safetensors_find(s, "i"), &value, &err));
    assert_int_equal(value, -7);
    assert_fails(ml_st_read_all_i64(t, &value, &err), ML_EFORMAT, "expected integers, found BF16");
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "e"), NULL, &err));
    ml_safetensors_close(s);
}

/* Values from the OCP 8-bit floating point specification, table 1 and 2. */
static void test_reads_fp8_and_wide_types(void **state)
{
    (void)state;
    image im = make_image("{\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                          "\"u\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[8,16]},"
                          "\"x\":{\"dtype\":\"F8_E4M3\",\"shape\":[6],\"data_offsets\":[16,22]},"
                          "\"y\":{\"dtype\":\"F8_E5M2\",\"shape\":[3],\"data_offsets\":[22,25]},"
                          "\"z\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[25,26]}}",
                          26);
    uint8_t *data = im.bytes + im.n - 26;
    const double wide = -1e-3;
    memcpy(data, &wide, 8);
    memset(data + 8, 0xff, 8);
    memcpy(data + 16, "\x7e\x08\x01\x00\x7f\xb8", 6); /* 448, 2^-6, 2^-9, 0, NaN, -1 */
    memcpy(data + 22, "\x7b\x7c\x01", 3);             /* 57344, inf, 2^-16 */
    data[25] = 1;
    ml_safetensors *s;
    assert_ok(ml_safetensors_open_memory(&s, im.bytes, im.n, "image", &err));
    float out[6];
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "d"), out, &err));
    assert_true(out[0] == -1e-3f);
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "u"), out, &err));
    assert_true(out[0] == 0x1p64f);
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "x"), out, &err));
    assert_true(out[0] == 448 && out[1] == 0x1p-6f && out[2] == 0x1p-9f && out[3] == 0 && isnan(out[4]) &&
                out[5] == -1);
    assert_ok(ml_st_read_all_f32(ml_safetensors_find(s, "y"), out, &err));
    assert_true(out[0] == 57344 && isinf(out[1]) && out[2] == 0x1p-16f);
    int64_t value;
    assert_ok(ml_st_read_all_i64(ml_safetensors_find(s, "z"), &value, &err));
    assert_int_equal(value, 1);
    assert_fails(ml_st_read_all_i64(ml_safetensors_find(s, "u"), &value, &err), ML_EFORMAT, "too large");
    ml_safetensors_close(s);
}

/* Sums computed by numpy over the bytes of the file; all of them fit into a double exactly. */
static void test_reads_a_published_folder(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/tiny_llama_safetensors");
    static const struct {
        const char *name;
        int64_t shape[2];
        double sum, squares, last;
    } expected[] = {
        { "lm_head.weight", { 16, 128 }, -0.4152096211910248, 0.8035677177532436, 0.017578125 },
        { "model.layers.0.mlp.down_proj.weight", { 128, 344 }, -1.4691375494003296, 17.395151787092537, 0.0185546875 },
        { "model.embed_tokens.weight", { 16, 128 }, -0.5850042998790741, 0.7603753562421263, 0.045654296875 },
    };
    ml_safetensors *s;
    assert_ok(ml_safetensors_open(&s, test_data_path("models/tiny_llama_safetensors"), &err));
    assert_int_equal(ml_safetensors_count(s), 39);
    float *values = ml_alloc(128 * 344 * sizeof *values);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const ml_st_tensor *t;
        assert_ok(ml_safetensors_get(s, expected[i].name, 2, expected[i].shape, &t, &err));
        assert_int_equal(t->dtype, ML_ST_BF16);
        assert_ok(ml_st_read_all_f32(t, values, &err));
        double sum = 0, squares = 0;
        for (int64_t j = 0; j < t->n_element; j++) {
            sum += (double)values[j];
            squares += (double)values[j] * (double)values[j];
        }
        assert_true(fabs(sum - expected[i].sum) < 1e-12);
        assert_true(fabs(squares - expected[i].squares) < 1e-12);
        assert_true(values[t->n_element - 1] == (float)expected[i].last);
    }
    ml_free(values);
    ml_safetensors_close(s);
}

enum { N_TENSOR = 9, N_ROW = 5, N_COLUMN = 1000 };

static void tensor_name(int i, char out[32])
{
    snprintf(out, 32, "layers.%d.weight", i);
}

static void fill_values(int i, float *values)
{
    ml_rng rng = ml_rng_make(7, (uint64_t)i);
    for (int j = 0; j < N_ROW * N_COLUMN; j++) values[j] = (float)ml_rng_normal(&rng);
}

/* Nine tensors of f32, bf16 and f16 in turn and an empty one, into `folder`. */
static void write_set(const char *folder, uint64_t max_shard_bytes)
{
    static const ml_st_dtype dtypes[3] = { ML_ST_F32, ML_ST_BF16, ML_ST_F16 };
    static float values[N_ROW * N_COLUMN];
    const int64_t shape[2] = { N_ROW, N_COLUMN }, empty[2] = { 0, 4 };
    char name[32];
    ml_manifest *m;
    ml_st_writer *w;
    assert_ok(ml_manifest_begin(&m, folder, 0, &err));
    assert_ok(ml_st_writer_begin(&w, m, "model.safetensors", max_shard_bytes, &err));
    assert_ok(ml_st_writer_declare(w, "empty", ML_ST_F32, 2, empty, &err));
    for (int i = 0; i < N_TENSOR; i++) {
        tensor_name(i, name);
        assert_ok(ml_st_writer_declare(w, name, dtypes[i % 3], 2, shape, &err));
    }
    assert_fails(ml_st_writer_declare(w, "empty", ML_ST_F32, 2, empty, &err), ML_EINVAL, "declared twice");
    assert_int_equal(ml_st_writer_bytes(w), 3 * N_ROW * N_COLUMN * (4 + 2 + 2));
    assert_ok(ml_st_writer_start(w, &err));
    for (int i = 0; i < N_TENSOR; i++) {
        fill_values(i, values);
        assert_ok(ml_st_writer_put_f32(w, values, 1234, &err));
        assert_ok(ml_st_writer_put_f32(w, values + 1234, N_ROW * N_COLUMN - 1234, &err));
    }
    assert_fails(ml_st_writer_put_f32(w, values, 1, &err), ML_EINVAL, "more data is given");
    assert_ok(ml_st_writer_end(w, &err));
    ml_st_writer_free(w);
    assert_ok(ml_manifest_commit(m, &err));
    ml_manifest_free(m);
}

/* Half types keep 8 and 11 significant bits: half a unit in the last place, and half of f16's smallest step. */
static void check_set(const char *folder)
{
    static const float relative[3] = { 0, 0x1p-8f, 0x1p-11f }, absolute[3] = { 0, 0, 0x1p-25f };
    static float values[N_ROW * N_COLUMN], read[N_COLUMN];
    const int64_t shape[2] = { N_ROW, N_COLUMN };
    ml_safetensors *s;
    assert_ok(ml_safetensors_open(&s, folder, &err));
    assert_int_equal(ml_safetensors_count(s), N_TENSOR + 1);
    for (int i = 0; i < N_TENSOR; i++) {
        char name[32];
        const ml_st_tensor *t;
        tensor_name(i, name);
        fill_values(i, values);
        assert_ok(ml_safetensors_get(s, name, 2, shape, &t, &err));
        assert_int_equal((uintptr_t)t->data % ml_st_dtype_size(t->dtype), 0);
        assert_ok(ml_st_read_f32(t, 3, 1, read, &err));
        for (int j = 0; j < N_COLUMN; j++) {
            float x = values[3 * N_COLUMN + j];
            assert_true(fabsf(read[j] - x) <= relative[i % 3] * fabsf(x) + absolute[i % 3]);
        }
    }
    assert_int_equal(ml_safetensors_find(s, "empty")->n_element, 0);
    ml_safetensors_close(s);
    assert_ok(ml_manifest_verify(folder, ML_VERIFY_HASHES, &err));
}

static void test_round_trips(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    write_set(folder, 0);
    check_set(folder);
    test_remove_folder(folder);

    /* 40,000 bytes hold an f32 (20,000) and two half tensors (10,000 each): three shards. */
    write_set(folder, 40000);
    check_set(folder);
    char **names;
    size_t n;
    assert_ok(ml_dir_list(folder, &names, &n, &err));
    assert_int_equal(n, 5);
    assert_string_equal(names[0], "manifest.json");
    assert_string_equal(names[1], "model-00001-of-00003.safetensors");
    assert_string_equal(names[4], "model.safetensors.index.json");
    ml_dir_list_free(names, n);
    json_t *index;
    assert_ok(ml_path_join(path, folder, "model.safetensors.index.json", &err));
    assert_ok(ml_json_load(path, &index, &err));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")), 120000);
    const json_t *weight_map = json_object_get(index, "weight_map");
    assert_string_equal(json_string_value(json_object_get(weight_map, "layers.4.weight")),
                        "model-00002-of-00003.safetensors");

    /* An index that promises what its shard has not, and one that leads out of the folder. */
    json_object_set_new((json_t *)(uintptr_t)weight_map, "ghost", json_string("model-00002-of-00003.safetensors"));
    assert_ok(ml_json_save(index, path, &err));
    ml_safetensors *s;
    assert_fails(ml_safetensors_open(&s, folder, &err), ML_EFORMAT, "tensor ghost: expected in model-00002");
    json_object_set_new((json_t *)(uintptr_t)weight_map, "ghost", json_string("../model.safetensors"));
    assert_ok(ml_json_save(index, path, &err));
    assert_fails(ml_safetensors_open(&s, folder, &err), ML_EFORMAT, "tensor ghost: expected the name of a file");
    json_decref(index);
    assert_ok(ml_path_join(path, folder, "model-00003-of-00003.safetensors", &err));
    assert_ok(ml_dir_remove(path, &err));
    assert_fails(ml_manifest_verify(folder, ML_VERIFY_SIZES, &err), ML_EFORMAT, "00003.safetensors: is listed");
    test_remove_folder(folder);
}

/* As many names as a 16B model has, over a dozen shards. */
static void test_many_names(void **state)
{
    (void)state;
    enum { N = 5344 };
    char folder[ML_PATH_MAX], name[64];
    strcpy(folder, test_make_folder());
    const int64_t shape[1] = { 3 };
    ml_manifest *m;
    ml_st_writer *w;
    assert_ok(ml_manifest_begin(&m, folder, 0, &err));
    assert_ok(ml_st_writer_begin(&w, m, "model.safetensors", N, &err));
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.up_proj.weight", i / 192, i % 192);
        assert_ok(ml_st_writer_declare(w, name, ML_ST_F32, 1, shape, &err));
    }
    assert_ok(ml_st_writer_start(w, &err));
    for (int i = 0; i < N; i++) {
        const float values[3] = { (float)i, (float)-i, 0.5f };
        assert_ok(ml_st_writer_put_f32(w, values, 3, &err));
    }
    assert_ok(ml_st_writer_end(w, &err));
    ml_st_writer_free(w);
    ml_manifest_free(m);
    ml_safetensors *s;
    assert_ok(ml_safetensors_open(&s, folder, &err));
    assert_int_equal(ml_safetensors_count(s), N);
    for (int i = 0; i < N; i++) {
        float values[3];
        const ml_st_tensor *t;
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.up_proj.weight", i / 192, i % 192);
        assert_ok(ml_safetensors_get(s, name, 1, shape, &t, &err));
        assert_ok(ml_st_read_all_f32(t, values, &err));
        assert_true(values[0] == (float)i && values[1] == (float)-i && values[2] == 0.5f);
    }
    assert_null(ml_safetensors_find(s, "model.layers.0.mlp.experts.192.up_proj.weight"));
    ml_safetensors_close(s);
    test_remove_folder(folder);
}

static void test_writer_wants_all_data(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    const int64_t shape[1] = { 4 }, negative[1] = { -1 }, huge[2] = { INT64_MAX / 2, 8 };
    const float values[5] = { 0 };
    ml_manifest *m;
    ml_st_writer *w;
    assert_ok(ml_manifest_begin(&m, folder, 0, &err));
    assert_fails(ml_st_writer_begin(&w, m, "model.bin", 0, &err), ML_EINVAL, "ends in .safetensors");
    assert_ok(ml_st_writer_begin(&w, m, "model.safetensors", 0, &err));
    assert_fails(ml_st_writer_declare(w, "x", ML_ST_F32, 1, negative, &err), ML_EINVAL, "shape");
    assert_fails(ml_st_writer_declare(w, "x", ML_ST_F32, 2, huge, &err), ML_EINVAL, "shape");
    assert_fails(ml_st_writer_declare(w, "\xff", ML_ST_F32, 1, shape, &err), ML_EINVAL, "name");
    assert_fails(ml_st_writer_declare(w, "__metadata__", ML_ST_F32, 1, shape, &err), ML_EINVAL, "name");
    assert_ok(ml_st_writer_declare(w, "x", ML_ST_F32, 1, shape, &err));
    assert_ok(ml_st_writer_start(w, &err));
    assert_fails(ml_st_writer_put_f32(w, values, 5, &err), ML_EINVAL, "more data is given than its shape has");
    assert_ok(ml_st_writer_put_f32(w, values, 3, &err));
    assert_fails(ml_st_writer_end(w, &err), ML_EINVAL, "tensor x: did not get all its data");
    ml_st_writer_free(w);
    ml_manifest_free(m);
    char **names;
    size_t n;
    assert_ok(ml_dir_list(folder, &names, &n, &err)); /* nothing half written stays */
    assert_int_equal(n, 0);
    ml_dir_list_free(names, n);
    test_remove_folder(folder);
}

static void expect_refusal(const char *header, size_t n_data, const char *part)
{
    image im = make_image(header, n_data);
    ml_safetensors *s;
    assert_fails(ml_safetensors_open_memory(&s, im.bytes, im.n, "lie", &err), ML_EFORMAT, part);
    if (strncmp(err.message, "lie: ", 5)) fail_msg("message \"%s\" does not name the file", err.message);
    assert_null(s);
}

#define ONE(dtype, shape, offsets) "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_refuses_lies(void **state)
{
    (void)state;
    expect_refusal("{}", 4, "the tensors end at offset 0 of the data, but the file has 4");
    expect_refusal("[]", 0, "begins with '{'");
    expect_refusal("{\"x\":1", 0, "not valid JSON");
    expect_refusal("{\"x\":3}", 0, "tensor x");
    expect_refusal("{\"__metadata__\":{\"a\":1}}", 0, "\"__metadata__\".\"a\"");
    expect_refusal("{\"x\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\"");
    expect_refusal("{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "\"shape\"");
    expect_refusal("{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "\"data_offsets\"");
    expect_refusal(ONE("F33", "[1]", "[0,4]"), 4, "\"F33\"");
    expect_refusal(ONE("F32", "[-1]", "[0,4]"), 4, "entry 0");
    expect_refusal(ONE("F32", "[1.0]", "[0,4]"), 4, "entry 0");
    expect_refusal(ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "at most 8 dimensions, found 9");
    expect_refusal(ONE("F32", "[4294967296,4294967296]", "[0,4]"), 4, "overflows");
    expect_refusal(ONE("F64", "[4611686018427387904]", "[0,0]"), 0, "is 0 bytes, but the shape");
    expect_refusal(ONE("F32", "[99999999999999999999]", "[0,4]"), 4, "not valid JSON");
    expect_refusal(ONE("F32", "[1]", "[0]"), 4, "two whole numbers");
    expect_refusal(ONE("F32", "[1]", "[0,4,8]"), 4, "two whole numbers");
    expect_refusal(ONE("F32", "[1]", "[-4,0]"), 4, "lies outside");
    expect_refusal(ONE("F32", "[1]", "[4,0]"), 4, "lies outside");
    expect_refusal(ONE("F32", "[1]", "[0,8]"), 4, "lies outside the 4 bytes");
    expect_refusal(ONE("F32", "[2]", "[0,4]"), 4, "is 4 bytes, but the shape has 2 elements of F32");
    expect_refusal(ONE("F32", "[1]", "[4,8]"), 8, "there is a hole");
    expect_refusal(ONE("F32", "[1]", "[0,4]"), 5, "end at offset 4 of the data, but the file has 5");
    expect_refusal("{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                   "\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
                   6, "tensor y: expected its data at offset 4, where the one before ends, found 2: they overlap");
    expect_refusal("{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                   "\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                   8, "duplicate");
    image im = make_image("{}", 0);
    ml_safetensors *s;
    memset(im.bytes, 0xff, 8);
    assert_fails(ml_safetensors_open_memory(&s, im.bytes, im.n, "lie", &err), ML_EFORMAT, "offset 0: the header");
    assert_fails(ml_safetensors_open_memory(&s, im.bytes, 7, "lie", &err), ML_EFORMAT, "header length");
    assert_fails(ml_safetensors_open(&s, "/nonexistent/x.safetensors", &err), ML_EIO, "No such file");
}

/* Open bytes in a block of exactly their size, so that a sanitizer sees every byte read beyond it, and read all
 * of what opens. Whether it opened. */
static bool try_bytes(const uint8_t *bytes, size_t n)
{
    ml_safetensors *s;
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    ml_status status = ml_safetensors_open_memory(&s, copy, n, "bytes", &err);
    for (size_t i = 0; status == ML_OK && i < ml_safetensors_count(s); i++) {
        const ml_st_tensor *t = ml_safetensors_at(s, i);
        float values[64];
        assert_true(t->n_element <= 64);
        assert_ok(ml_st_read_all_f32(t, values, &err));
    }
    if (status == ML_OK) {
        ml_safetensors_close(s);
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
    image im = make_image(small_header, 20);
    size_t n_header = im.n - 20;
    ml_alloc_stats before = ml_alloc_get_stats();
    for (size_t n = 0; n < im.n; n++) assert_false(try_bytes(im.bytes, n));
    assert_true(try_bytes(im.bytes, im.n));
    for (size_t i = 0; i < im.n; i++) {
        uint8_t old = im.bytes[i];
        const uint8_t changes[4] = { 0, 0xff, (uint8_t)~old, (uint8_t)(old + 1) };
        for (int j = 0; j < 4; j++) {
            im.bytes[i] = changes[j];
            bool opened = try_bytes(im.bytes, im.n);
            if (i >= n_header) assert_true(opened); /* any bytes are data */
        }
        im.bytes[i] = old;
    }
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_hand_made_file),
        cmocka_unit_test(test_reads_fp8_and_wide_types),
        cmocka_unit_test(test_reads_a_published_folder),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_many_names),
        cmocka_unit_test(test_writer_wants_all_data),
        cmocka_unit_test(test_refuses_lies),
        cmocka_unit_test(test_survives_damage),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
