/* The machine.  Values stand in one growing pool; the entries of containers are linked cells of another.  Every opcode
 * adds at most one value, and a bounded number of cells for what it takes off the stack. */
#include "format/pickle.h"

#include "base/alloc.h"

#include <string.h>

enum {
    MAX_VALUE = 1 << 19,
    MAX_CELL = 1 << 20,
    MAX_STACK = 1 << 20,
    MAX_MARK = 1 << 16,
    MAX_MEMO = 1 << 20,
};
static const uint32_t none = UINT32_MAX;

typedef struct {
    ml_pickle_kind kind;
    uint32_t n; /* bytes, or cells */
    union {
        int64_t integer;
        double number;
        const uint8_t *bytes;
        struct {
            uint32_t first, last; /* cells; none: empty */
        } list;
        struct {
            uint32_t class, args;
        } call; /* CLASS has only class, PERSISTENT only args */
    } as;
} value;

typedef struct {
    uint32_t value, next;
} cell;

struct ml_pickle {
    value *values;
    size_t n_value, value_capacity;
    cell *cells;
    size_t n_cell, cell_capacity;
    uint32_t root;
    const ml_pickle_class *classes;
    size_t n_class;
};

typedef struct {
    ml_pickle *p;
    ml_bytes *bytes;
    size_t at; /* of the opcode */
    uint32_t *stack;
    size_t n_stack, stack_capacity;
    uint32_t *marks; /* heights of the stack */
    size_t n_mark, mark_capacity;
    uint32_t *memo;
    size_t n_memo, memo_capacity;
    uint32_t of_none, of_false, of_true;
} machine;

static ml_status fail_at(const machine *m, ml_error *err, const char *what)
{
    return ml_fail(err, ML_EFORMAT, "pickle, offset %zu: %s", m->at, what);
}

static ml_status push(machine *m, uint32_t id, ml_error *err)
{
    if (m->n_stack == MAX_STACK) return fail_at(m, err, "its stack grows beyond a million values: it is no checkpoint");
    ML_TRY(ml_grow((void **)&m->stack, &m->stack_capacity, m->n_stack + 1, sizeof *m->stack, err));
    m->stack[m->n_stack++] = id;
    return ML_OK;
}

static ml_status add_value(machine *m, value v, uint32_t *id, ml_error *err)
{
    ml_pickle *p = m->p;
    if (p->n_value == MAX_VALUE) return fail_at(m, err, "has more than 524,288 values: it is no checkpoint");
    ML_TRY(ml_grow((void **)&p->values, &p->value_capacity, p->n_value + 1, sizeof v, err));
    *id = (uint32_t)p->n_value;
    p->values[p->n_value++] = v;
    return ML_OK;
}

static ml_status push_value(machine *m, value v, ml_error *err)
{
    uint32_t id;
    ML_TRY(add_value(m, v, &id, err));
    return push(m, id, err);
}

static ml_status push_int(machine *m, int64_t integer, ml_error *err)
{
    return push_value(m, (value){ .kind = ML_PICKLE_INT, .as.integer = integer }, err);
}

static value empty(ml_pickle_kind kind)
{
    return (value){ .kind = kind, .as.list = { none, none } };
}

/* Values above the last mark may be taken off the stack, no others. */
static ml_status pop(machine *m, uint32_t *id, ml_error *err)
{
    size_t floor = m->n_mark ? m->marks[m->n_mark - 1] : 0;
    if (m->n_stack <= floor) return fail_at(m, err, "takes a value off an empty stack");
    *id = m->stack[--m->n_stack];
    return ML_OK;
}

static ml_status peek(const machine *m, uint32_t *id, ml_error *err)
{
    if (!m->n_stack) return fail_at(m, err, "needs a value on the stack");
    *id = m->stack[m->n_stack - 1];
    return ML_OK;
}

static ml_status pop_mark(machine *m, size_t *first, ml_error *err)
{
    if (!m->n_mark) return fail_at(m, err, "needs a mark on the stack");
    *first = m->marks[--m->n_mark];
    return ML_OK;
}

static ml_status push_mark(machine *m, ml_error *err)
{
    if (m->n_mark == MAX_MARK) return fail_at(m, err, "nests deeper than 65,536 marks: it is no checkpoint");
    ML_TRY(ml_grow((void **)&m->marks, &m->mark_capacity, m->n_mark + 1, sizeof *m->marks, err));
    m->marks[m->n_mark++] = (uint32_t)m->n_stack;
    return ML_OK;
}

static ml_status append(machine *m, uint32_t id, uint32_t item, ml_error *err)
{
    ml_pickle *p = m->p;
    if (p->n_cell == MAX_CELL) return fail_at(m, err, "has more than a million entries: it is no checkpoint");
    ML_TRY(ml_grow((void **)&p->cells, &p->cell_capacity, p->n_cell + 1, sizeof *p->cells, err));
    uint32_t at = (uint32_t)p->n_cell++;
    p->cells[at] = (cell){ item, none };
    value *v = &p->values[id];
    if (v->as.list.last == none) {
        v->as.list.first = at;
    } else {
        p->cells[v->as.list.last].next = at;
    }
    v->as.list.last = at;
    v->n++;
    return ML_OK;
}

/* The values of the stack from `first` on become entries of `id`. */
static ml_status append_from(machine *m, uint32_t id, size_t first, ml_error *err)
{
    bool pairs = m->p->values[id].kind == ML_PICKLE_DICT;
    if (pairs && (m->n_stack - first) % 2) return fail_at(m, err, "a dict gets a key without a value");
    for (size_t i = first; i < m->n_stack; i++) ML_TRY(append(m, id, m->stack[i], err));
    m->n_stack = first;
    return ML_OK;
}

/* A container of n values, which are on top of the stack. */
static ml_status collect(machine *m, ml_pickle_kind kind, size_t n, ml_error *err)
{
    uint32_t id;
    size_t floor = m->n_mark ? m->marks[m->n_mark - 1] : 0;
    if (m->n_stack - floor < n) return fail_at(m, err, "takes more values off the stack than it has");
    ML_TRY(add_value(m, empty(kind), &id, err));
    ML_TRY(append_from(m, id, m->n_stack - n, err));
    return push(m, id, err);
}

static ml_status collect_to_mark(machine *m, ml_pickle_kind kind, ml_error *err)
{
    size_t first;
    ML_TRY(pop_mark(m, &first, err));
    return collect(m, kind, m->n_stack - first, err);
}

/* Entries for the container below them. */
static ml_status extend(machine *m, ml_pickle_kind kind, size_t first, ml_error *err)
{
    if (!first) return fail_at(m, err, "fills a container that is not there");
    uint32_t id = m->stack[first - 1];
    if (m->p->values[id].kind != kind) {
        return ml_fail(err, ML_EFORMAT, "pickle, offset %zu: fills %s, expected %s", m->at,
                       ml_pickle_kind_name(m->p->values[id].kind), ml_pickle_kind_name(kind));
    }
    return append_from(m, id, first, err);
}

static ml_status extend_to_mark(machine *m, ml_pickle_kind kind, ml_error *err)
{
    size_t first;
    ML_TRY(pop_mark(m, &first, err));
    return extend(m, kind, first, err);
}

static ml_status extend_by(machine *m, ml_pickle_kind kind, size_t n, ml_error *err)
{
    size_t floor = m->n_mark ? m->marks[m->n_mark - 1] : 0;
    if (m->n_stack - floor < n + 1) return fail_at(m, err, "takes more values off the stack than it has");
    return extend(m, kind, m->n_stack - n, err);
}

static ml_status push_bytes(machine *m, ml_pickle_kind kind, uint64_t n, ml_error *err)
{
    const uint8_t *p;
    if (n > UINT32_MAX) return fail_at(m, err, "has a text of more than 4 GiB");
    ML_TRY(ml_bytes_take(m->bytes, (size_t)n, &p, err));
    return push_value(m, (value){ .kind = kind, .n = (uint32_t)n, .as.bytes = p }, err);
}

/* Two's complement, little endian. */
static ml_status push_long(machine *m, uint64_t n, ml_error *err)
{
    if (n > 8) return push_bytes(m, ML_PICKLE_BIG, n, err);
    const uint8_t *p;
    uint64_t bits = 0;
    ML_TRY(ml_bytes_take(m->bytes, (size_t)n, &p, err));
    for (size_t i = 0; i < n; i++) bits |= (uint64_t)p[i] << 8 * i;
    if (n && n < 8 && p[n - 1] & 0x80) bits |= UINT64_MAX << 8 * n;
    return push_int(m, (int64_t)bits, err);
}

static ml_status push_float(machine *m, ml_error *err)
{
    const uint8_t *p;
    uint64_t bits = 0;
    value v = { .kind = ML_PICKLE_FLOAT };
    ML_TRY(ml_bytes_take(m->bytes, 8, &p, err));
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i]; // the one big-endian field
    memcpy(&v.as.number, &bits, sizeof bits);
    return push_value(m, v, err);
}

static ml_status push_class(machine *m, const char *module, size_t n_module, const char *name, size_t n_name,
                            ml_error *err)
{
    for (size_t i = 0; i < m->p->n_class; i++) {
        const ml_pickle_class *c = &m->p->classes[i];
        if (strlen(c->module) != n_module || memcmp(c->module, module, n_module)) continue;
        if (strlen(c->name) != n_name || memcmp(c->name, name, n_name)) continue;
        return push_value(m, (value){ .kind = ML_PICKLE_CLASS, .as.call = { (uint32_t)i, none } }, err);
    }
    return ml_fail(err, ML_EFORMAT,
                   "pickle, offset %zu: asks for code: %.*s.%.*s is none of the classes that a checkpoint of numbers "
                   "needs: it was not run, and the file is not read",
                   m->at, (int)(n_module < 100 ? n_module : 100), module, (int)(n_name < 100 ? n_name : 100), name);
}

static ml_status take_line(machine *m, const char **line, size_t *n, ml_error *err)
{
    const uint8_t *begin = m->bytes->data + m->bytes->at;
    const uint8_t *end = m->bytes->at < m->bytes->size ? memchr(begin, '\n', m->bytes->size - m->bytes->at) : NULL;
    if (!end) return fail_at(m, err, "a name without an end: the file is cut short or damaged");
    *line = (const char *)begin;
    *n = (size_t)(end - begin);
    m->bytes->at += *n + 1;
    return ML_OK;
}

static ml_status push_class_of_lines(machine *m, ml_error *err)
{
    const char *module, *name;
    size_t n_module, n_name;
    ML_TRY(take_line(m, &module, &n_module, err));
    ML_TRY(take_line(m, &name, &n_name, err));
    return push_class(m, module, n_module, name, n_name, err);
}

static ml_status push_class_of_stack(machine *m, ml_error *err)
{
    uint32_t name, module;
    ML_TRY(pop(m, &name, err));
    ML_TRY(pop(m, &module, err));
    const value *n = &m->p->values[name], *o = &m->p->values[module];
    if (n->kind != ML_PICKLE_TEXT || o->kind != ML_PICKLE_TEXT) return fail_at(m, err, "names a class by no text");
    return push_class(m, (const char *)o->as.bytes, o->n, (const char *)n->as.bytes, n->n, err);
}

/* OrderedDict([(key, value), ...]) */
static ml_status push_dict_of(machine *m, uint32_t args, ml_error *err)
{
    ml_pickle *p = m->p;
    uint32_t id, list, pair, item;
    ML_TRY(add_value(m, empty(ML_PICKLE_DICT), &id, err));
    ml_pickle_walk arg = ml_pickle_begin(p, args), walk;
    if (ml_pickle_next(p, &arg, &list) && p->values[list].kind == ML_PICKLE_LIST) {
        walk = ml_pickle_begin(p, list);
        while (ml_pickle_next(p, &walk, &pair)) {
            ml_pickle_kind kind = p->values[pair].kind;
            if ((kind != ML_PICKLE_LIST && kind != ML_PICKLE_TUPLE) || p->values[pair].n != 2) {
                return fail_at(m, err, "makes a dict of something else than pairs");
            }
            ml_pickle_walk both = ml_pickle_begin(p, pair);
            while (ml_pickle_next(p, &both, &item)) ML_TRY(append(m, id, item, err));
        }
    }
    return push(m, id, err);
}

static ml_status call(machine *m, ml_error *err)
{
    uint32_t args, class;
    ML_TRY(pop(m, &args, err));
    ML_TRY(pop(m, &class, err));
    const value *c = &m->p->values[class];
    if (c->kind != ML_PICKLE_CLASS) return fail_at(m, err, "asks for code: calls what is no class of the known ones");
    if (m->p->values[args].kind != ML_PICKLE_TUPLE)
        return fail_at(m, err, "calls a class without a tuple of arguments");
    uint32_t index = c->as.call.class;
    if (m->p->classes[index].makes_dict) return push_dict_of(m, args, err);
    return push_value(m, (value){ .kind = ML_PICKLE_CALL, .as.call = { index, args } }, err);
}

/* The state of an object, or of a dict ("_metadata" of a state dict), is of no use here. */
static ml_status build(machine *m, ml_error *err)
{
    uint32_t state, id;
    ML_TRY(pop(m, &state, err));
    ML_TRY(peek(m, &id, err));
    ml_pickle_kind kind = m->p->values[id].kind;
    if (kind == ML_PICKLE_CALL || kind == ML_PICKLE_DICT) return ML_OK;
    return fail_at(m, err, "gives a state to what is no object");
}

static ml_status push_persistent(machine *m, ml_error *err)
{
    uint32_t id;
    ML_TRY(pop(m, &id, err));
    return push_value(m, (value){ .kind = ML_PICKLE_PERSISTENT, .as.call = { none, id } }, err);
}

static ml_status memo_put(machine *m, uint64_t index, ml_error *err)
{
    uint32_t id;
    ML_TRY(peek(m, &id, err));
    if (index >= MAX_MEMO) return fail_at(m, err, "remembers more than a million values: it is no checkpoint");
    ML_TRY(ml_grow((void **)&m->memo, &m->memo_capacity, (size_t)index + 1, sizeof *m->memo, err));
    while (m->n_memo <= index) m->memo[m->n_memo++] = none;
    m->memo[index] = id;
    return ML_OK;
}

static ml_status memo_get(machine *m, uint64_t index, ml_error *err)
{
    if (index >= m->n_memo || m->memo[index] == none) return fail_at(m, err, "recalls a value that was not remembered");
    return push(m, m->memo[index], err);
}

static ml_status pop_top(machine *m, ml_error *err)
{
    uint32_t id;
    size_t first;
    if (m->n_mark && m->marks[m->n_mark - 1] == m->n_stack) return pop_mark(m, &first, err);
    return pop(m, &id, err);
}

static ml_status pop_to_mark(machine *m, ml_error *err)
{
    ML_TRY(pop_mark(m, &m->n_stack, err));
    return ML_OK;
}

/* n_bytes of the length or index behind the opcode. */
static ml_status read_count(machine *m, int n_bytes, uint64_t *out, ml_error *err)
{
    const uint8_t *p;
    ML_TRY(ml_bytes_take(m->bytes, (size_t)n_bytes, &p, err));
    *out = 0;
    for (int i = 0; i < n_bytes; i++) *out |= (uint64_t)p[i] << 8 * i;
    return ML_OK;
}

/* Opcodes with a number behind them: its bytes, 0 for the others. */
static int count_bytes(uint8_t op)
{
    switch (op) {
    case 0x80: // PROTO
    case 'K':  // BININT1
    case 'q':  // BINPUT
    case 'h':  // BINGET
    case 'U':  // SHORT_BINSTRING
    case 'C':  // SHORT_BINBYTES
    case 0x8c: // SHORT_BINUNICODE
    case 0x8a: // LONG1
        return 1;
    case 'M': return 2; // BININT2
    case 'J':           // BININT
    case 'r':           // LONG_BINPUT
    case 'j':           // LONG_BINGET
    case 'T':           // BINSTRING
    case 'B':           // BINBYTES
    case 'X':           // BINUNICODE
    case 0x8b:          // LONG4
        return 4;
    case 0x8d: // BINUNICODE8
    case 0x8e: // BINBYTES8
    case 0x95: // FRAME
    case 0x96: // BYTEARRAY8
        return 8;
    default: return 0;
    }
}

static ml_status step_counted(machine *m, uint8_t op, uint64_t n, ml_error *err)
{
    switch (op) {
    case 0x80:
        if (n >= 2 && n <= 5) return ML_OK;
        return fail_at(m, err, "expected protocol 2 to 5: save it with a later Python");
    case 0x95: return ML_OK;
    case 'K':
    case 'M': return push_int(m, (int64_t)n, err);
    case 'J': return push_int(m, (int32_t)(uint32_t)n, err);
    case 0x8a:
    case 0x8b: return push_long(m, n, err);
    case 'q':
    case 'r': return memo_put(m, n, err);
    case 'h':
    case 'j': return memo_get(m, n, err);
    case 'X':
    case 0x8c:
    case 0x8d: return push_bytes(m, ML_PICKLE_TEXT, n, err);
    case 'U': // texts of Python 2
    case 'T': return push_bytes(m, ML_PICKLE_TEXT, n, err);
    default: return push_bytes(m, ML_PICKLE_BYTES, n, err);
    }
}

static ml_status step_plain(machine *m, uint8_t op, ml_error *err)
{
    uint32_t id;
    switch (op) {
    case 'N': return push(m, m->of_none, err);
    case 0x88: return push(m, m->of_true, err);
    case 0x89: return push(m, m->of_false, err);
    case 'G': return push_float(m, err);
    case '(': return push_mark(m, err);
    case '0': return pop_top(m, err);
    case '1': return pop_to_mark(m, err);
    case '2': ML_TRY(peek(m, &id, err)); return push(m, id, err);
    case '}': return push_value(m, empty(ML_PICKLE_DICT), err);
    case 0x8f: // EMPTY_SET
    case ']': return push_value(m, empty(ML_PICKLE_LIST), err);
    case ')': return push_value(m, empty(ML_PICKLE_TUPLE), err);
    case 0x85: return collect(m, ML_PICKLE_TUPLE, 1, err);
    case 0x86: return collect(m, ML_PICKLE_TUPLE, 2, err);
    case 0x87: return collect(m, ML_PICKLE_TUPLE, 3, err);
    case 't': return collect_to_mark(m, ML_PICKLE_TUPLE, err);
    case 0x91: // FROZENSET
    case 'l': return collect_to_mark(m, ML_PICKLE_LIST, err);
    case 'd': return collect_to_mark(m, ML_PICKLE_DICT, err);
    case 'a': return extend_by(m, ML_PICKLE_LIST, 1, err);
    case 's': return extend_by(m, ML_PICKLE_DICT, 2, err);
    case 0x90: // ADDITEMS
    case 'e': return extend_to_mark(m, ML_PICKLE_LIST, err);
    case 'u': return extend_to_mark(m, ML_PICKLE_DICT, err);
    case 0x94: return memo_put(m, m->n_memo, err); // MEMOIZE
    case 'c': return push_class_of_lines(m, err);
    case 0x93: return push_class_of_stack(m, err);
    case 'R':
    case 0x81: return call(m, err); // NEWOBJ
    case 'b': return build(m, err);
    case 'Q': return push_persistent(m, err);
    case 'i': // INST, OBJ, EXT1..4, NEWOBJ_EX
    case 'o':
    case 0x82:
    case 0x83:
    case 0x84:
    case 0x92: return fail_at(m, err, "asks for code, by an opcode that no checkpoint of numbers needs");
    default:
        return ml_fail(err, ML_EFORMAT, "pickle, offset %zu: opcode 0x%02x is none of protocols 2 to 5", m->at, op);
    }
}

static ml_status add_constants(machine *m, ml_error *err)
{
    ML_TRY(add_value(m, (value){ .kind = ML_PICKLE_NONE }, &m->of_none, err));
    ML_TRY(add_value(m, (value){ .kind = ML_PICKLE_BOOL, .as.integer = 0 }, &m->of_false, err));
    return add_value(m, (value){ .kind = ML_PICKLE_BOOL, .as.integer = 1 }, &m->of_true, err);
}

static ml_status run(machine *m, ml_error *err)
{
    ML_TRY(add_constants(m, err));
    for (;;) {
        uint8_t op;
        uint64_t n;
        m->at = m->bytes->at;
        ML_TRY(ml_bytes_u8(m->bytes, &op, err));
        if (op == '.') return pop(m, &m->p->root, err);
        int n_bytes = count_bytes(op);
        if (n_bytes) {
            ML_TRY(read_count(m, n_bytes, &n, err));
            ML_TRY(step_counted(m, op, n, err));
        } else {
            ML_TRY(step_plain(m, op, err));
        }
    }
}

ml_status ml_pickle_parse(ml_bytes *bytes, const ml_pickle_class *classes, size_t n_class, ml_pickle **out,
                          ml_error *err)
{
    *out = NULL;
    ml_pickle *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a pickle");
    p->classes = classes;
    p->n_class = n_class;
    machine m = { .p = p, .bytes = bytes };
    ml_status status = run(&m, err);
    ml_free(m.stack);
    ml_free(m.marks);
    ml_free(m.memo);
    if (status == ML_OK) {
        *out = p;
    } else {
        ml_pickle_free(p);
    }
    return status;
}

void ml_pickle_free(ml_pickle *p)
{
    if (!p) return;
    ml_free(p->values);
    ml_free(p->cells);
    ml_free(p);
}

ml_pickle_id ml_pickle_root(const ml_pickle *p)
{
    return p->root;
}

size_t ml_pickle_count(const ml_pickle *p)
{
    return p->n_value;
}

ml_pickle_kind ml_pickle_kind_of(const ml_pickle *p, ml_pickle_id id)
{
    return p->values[id].kind;
}

const char *ml_pickle_kind_name(ml_pickle_kind kind)
{
    static const char *const names[] = {
        [ML_PICKLE_NONE] = "None",
        [ML_PICKLE_BOOL] = "a bool",
        [ML_PICKLE_INT] = "an integer",
        [ML_PICKLE_BIG] = "a large integer",
        [ML_PICKLE_FLOAT] = "a float",
        [ML_PICKLE_TEXT] = "a text",
        [ML_PICKLE_BYTES] = "bytes",
        [ML_PICKLE_LIST] = "a list",
        [ML_PICKLE_TUPLE] = "a tuple",
        [ML_PICKLE_DICT] = "a dict",
        [ML_PICKLE_CLASS] = "a class",
        [ML_PICKLE_CALL] = "an object",
        [ML_PICKLE_PERSISTENT] = "a storage",
    };
    return names[kind];
}

int64_t ml_pickle_int(const ml_pickle *p, ml_pickle_id id)
{
    return p->values[id].as.integer;
}

double ml_pickle_float(const ml_pickle *p, ml_pickle_id id)
{
    return p->values[id].as.number;
}

const char *ml_pickle_bytes(const ml_pickle *p, ml_pickle_id id, size_t *n_bytes)
{
    *n_bytes = p->values[id].n;
    return (const char *)p->values[id].as.bytes;
}

bool ml_pickle_is_text(const ml_pickle *p, ml_pickle_id id, const char *text)
{
    const value *v = &p->values[id];
    return v->kind == ML_PICKLE_TEXT && v->n == strlen(text) && !memcmp(v->as.bytes, text, v->n);
}

size_t ml_pickle_class_index(const ml_pickle *p, ml_pickle_id id)
{
    return p->values[id].as.call.class;
}

ml_pickle_id ml_pickle_call_args(const ml_pickle *p, ml_pickle_id id)
{
    return p->values[id].as.call.args;
}

size_t ml_pickle_size(const ml_pickle *p, ml_pickle_id id)
{
    const value *v = &p->values[id];
    return v->kind == ML_PICKLE_DICT ? v->n / 2 : v->n;
}

ml_pickle_walk ml_pickle_begin(const ml_pickle *p, ml_pickle_id id)
{
    return (ml_pickle_walk){ p->values[id].as.list.first };
}

bool ml_pickle_next(const ml_pickle *p, ml_pickle_walk *walk, ml_pickle_id *out)
{
    if (walk->cell == none) return false;
    *out = p->cells[walk->cell].value;
    walk->cell = p->cells[walk->cell].next;
    return true;
}

bool ml_pickle_get(const ml_pickle *p, ml_pickle_id id, const char *key, ml_pickle_id *out)
{
    if (p->values[id].kind != ML_PICKLE_DICT) return false;
    ml_pickle_walk walk = ml_pickle_begin(p, id);
    ml_pickle_id name, found;
    bool any = false;
    while (ml_pickle_next(p, &walk, &name) && ml_pickle_next(p, &walk, &found)) {
        if (!ml_pickle_is_text(p, name, key)) continue;
        *out = found;
        any = true;
    }
    return any;
}
