#include "train/tfevents.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "train/appender.h"

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

struct ml_tfevents {
    ml_appender file;
    uint8_t *record; /* the record in work; kept, so that steady writing allocates nothing */
    size_t n, capacity;
};

enum { RECORD_HEADER = 12 };

/* crc of (byte << 24 ...) one byte at a time, reflected polynomial 0x82f63b78. Records are small. */
uint32_t ml_crc32c(const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n_bytes; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* TFRecord stores checksums rotated and offset, so that a checksum of checksums stays useful. */
static uint32_t masked_crc(const uint8_t *data, size_t n_bytes)
{
    uint32_t crc = ml_crc32c(data, n_bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* Protobuf encoding: a key is field << 3 | wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes). */

static void put_byte(ml_tfevents *t, uint8_t b)
{
    t->record[t->n++] = b;
}

static void put_varint(ml_tfevents *t, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) put_byte(t, (uint8_t)(v | 0x80));
    put_byte(t, (uint8_t)v);
}

static size_t varint_size(uint64_t v)
{
    size_t n = 1;
    for (; v >= 0x80; v >>= 7) n++;
    return n;
}

static void put_bytes(ml_tfevents *t, const void *data, size_t n_bytes)
{
    put_varint(t, n_bytes);
    memcpy(t->record + t->n, data, n_bytes);
    t->n += n_bytes;
}

static void put_double(ml_tfevents *t, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    ml_store_u64(t->record + t->n, bits);
    t->n += 8;
}

static void put_float(ml_tfevents *t, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ml_store_u32(t->record + t->n, bits);
    t->n += 4;
}

/* Summary.Value {1: string tag, 2: float simple_value} */
static size_t value_size(const ml_tfevents_scalar *s)
{
    size_t tag = strlen(s->tag);
    return 1 + varint_size(tag) + tag + 5;
}

static size_t summary_size(const ml_tfevents_scalar *scalars, size_t n_scalar)
{
    size_t total = 0;
    for (size_t i = 0; i < n_scalar; i++) {
        size_t n = value_size(&scalars[i]);
        total += 1 + varint_size(n) + n;
    }
    return total;
}

static void put_value(ml_tfevents *t, const ml_tfevents_scalar *s)
{
    put_byte(t, 1 << 3 | 2);
    put_varint(t, value_size(s));
    put_byte(t, 1 << 3 | 2);
    put_bytes(t, s->tag, strlen(s->tag));
    put_byte(t, 2 << 3 | 5);
    put_float(t, s->value);
}

/* Start an event with room for `body` bytes behind its time and step. */
static ml_status begin_event(ml_tfevents *t, double wall_time, int64_t step, size_t body, ml_error *err)
{
    ML_TRY(ml_grow((void **)&t->record, &t->capacity, RECORD_HEADER + 9 + 11 + body + 4, 1, err));
    t->n = RECORD_HEADER;
    put_byte(t, 1 << 3 | 1);
    put_double(t, wall_time);
    put_byte(t, 2 << 3 | 0);
    put_varint(t, (uint64_t)step);
    return ML_OK;
}

/* Frame the record and append it with one write. */
static ml_status end_event(ml_tfevents *t, ml_error *err)
{
    size_t payload = t->n - RECORD_HEADER;
    ml_store_u64(t->record, payload);
    ml_store_u32(t->record + 8, masked_crc(t->record, 8));
    ml_store_u32(t->record + t->n, masked_crc(t->record + RECORD_HEADER, payload));
    return ml_appender_write(&t->file, t->record, t->n + 4, err);
}

static ml_status write_version(ml_tfevents *t, double wall_time, ml_error *err)
{
    static const char version[] = "brain.Event:2";
    ML_TRY(begin_event(t, wall_time, 0, 32, err));
    put_byte(t, 3 << 3 | 2);
    put_bytes(t, version, strlen(version));
    return end_event(t, err);
}

/* SessionLog {1: status = START} at a step: points at and after it, of earlier files, are out of date. */
static ml_status write_restart(ml_tfevents *t, double wall_time, int64_t step, ml_error *err)
{
    static const uint8_t start[] = { 1 << 3 | 0, 1 };
    ML_TRY(begin_event(t, wall_time, step, 32, err));
    put_byte(t, 7 << 3 | 2);
    put_bytes(t, start, sizeof start);
    return end_event(t, err);
}

/* TensorBoard reads the files of a folder in the order of their names: the time comes first. */
static ml_status create_file(ml_tfevents *t, const char *folder, double wall_time, ml_error *err)
{
    char host[128] = "", name[256], path[ML_PATH_MAX];
    if (gethostname(host, sizeof host - 1) != 0 || !*host || strchr(host, '/')) strcpy(host, "localhost");
    for (int i = 0;; i++) {
        snprintf(name, sizeof name, "events.out.tfevents.%010lld.%s.%ld.%d", (long long)wall_time, host, (long)getpid(),
                 i);
        ML_TRY(ml_path_join(path, folder, name, err));
        if (!ml_path_exists(path)) return ml_appender_open(&t->file, path, err);
    }
}

ml_status ml_tfevents_open(ml_tfevents **out, const char *folder, int64_t resume_step, ml_error *err)
{
    *out = NULL;
    ml_tfevents *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail_memory(err, sizeof *t, "TensorBoard events");
    t->file.fd = -1;
    double now = ml_clock_unix_seconds();
    ml_status status;
    ML_TRY_GOTO(create_file(t, folder, now, err));
    ML_TRY_GOTO(write_version(t, now, err));
    if (resume_step >= 0) ML_TRY_GOTO(write_restart(t, now, resume_step, err));
    *out = t;
    t = NULL;
done:
    ml_tfevents_close(t);
    return status;
}

ml_status ml_tfevents_write(ml_tfevents *t, int64_t step, double wall_time, const ml_tfevents_scalar *scalars,
                            size_t n_scalar, ml_error *err)
{
    size_t n_bytes = summary_size(scalars, n_scalar);
    ML_TRY(begin_event(t, wall_time, step, n_bytes + 11, err));
    put_byte(t, 5 << 3 | 2);
    put_varint(t, n_bytes);
    for (size_t i = 0; i < n_scalar; i++) put_value(t, &scalars[i]);
    return end_event(t, err);
}

void ml_tfevents_close(ml_tfevents *t)
{
    if (!t) return;
    ml_appender_close(&t->file);
    ml_free(t->record);
    ml_free(t);
}
