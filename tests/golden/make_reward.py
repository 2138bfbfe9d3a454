#!/usr/bin/env python3
"""Make reward_pairs.json: pairs of mathematical expressions, and whether sympy finds them equal.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install sympy      # made with sympy 1.14.0
    /tmp/venv/bin/python tests/golden/make_reward.py tests/golden

Each row is [kind, a, b, equal].  A row of kind "answer" is graded as an answer (a) against a label (b); every other row
compares values.  `equal` is proved by sympy's simplification; `not equal` by 60 digits (at random points where there
are variables).  A pair of which sympy can show neither is left out.  Rows of kind "function" are textbook identities,
written by hand; rows of kind "integer" are Python's own arithmetic.
"""
import json
import random
import sys

import sympy
from sympy import E, I, Integer, Rational, cbrt, cos, expand, factor, latex, pi, radsimp, root
from sympy import simplify, sin, sqrt, symbols, tan, together

random.seed(20260725)
x, y, z, n, theta = symbols("x y z n theta")
VARIABLES = [x, y, z]


# Expressions as (LaTeX, sympy value), so that what the LaTeX says is not rewritten on its way.
def whole(low=-9, high=9):
    k = random.randint(low, high)
    return (str(k) if k >= 0 else f"({k})", Integer(k))


def fraction():
    p, q = random.randint(-12, 12), random.randint(2, 12)
    return (("-" if p < 0 else "") + rf"\frac{{{abs(p)}}}{{{q}}}", Rational(p, q))


def decimal():
    p, places = random.randint(1, 9999), random.randint(1, 4)
    digits = str(p).rjust(places + 1, "0")
    return (f"{digits[:-places]}.{digits[-places:]}", Rational(p, 10**places))


def surd():
    k = random.choice([2, 3, 5, 6, 7, 8, 12, 18, 20, 27, 45, 50, 75, 98, 1000])
    index = random.choice([2, 2, 2, 3, 4])
    head = r"\sqrt" if index == 2 else rf"\sqrt[{index}]"
    return (f"{head}{{{k}}}", root(Integer(k), index))


def quadratic_surd():
    k, m = random.randint(2, 30), random.randint(-5, 5) or 1
    return (rf"({random.choice(['', ''])}{m}\sqrt{{{k}}})", m * sqrt(Integer(k)))


def variable():
    v = random.choice(VARIABLES)
    return (str(v), v)


def constant():
    return random.choice([(r"\pi", pi), ("e", E), (r"\sqrt{\pi}", sqrt(pi)), (r"\pi^2", pi**2)])


def imaginary():
    return ("i", I)


def add(a, b):
    return (f"{a[0]} + {b[0]}", a[1] + b[1])


def subtract(a, b):
    return (rf"{a[0]} - \left({b[0]}\right)", a[1] - b[1])


def multiply(a, b):
    style = random.choice([r"\left({}\right)\left({}\right)", r"({}) \cdot ({})", r"({}) \times \left({}\right)"])
    return (style.format(a[0], b[0]), a[1] * b[1])


def divide(a, b):
    if simplify(b[1]) == 0:
        return add(a, b)
    return (rf"\frac{{{a[0]}}}{{{b[0]}}}", a[1] / b[1])


def power(a):
    k = random.choice([2, 2, 3, -1, -2])
    if k < 0 and simplify(a[1]) == 0:
        k = 2
    return (rf"\left({a[0]}\right)^{{{k}}}", a[1] ** k)


def tree(leaves, depth):
    if depth == 0:
        return random.choice(leaves)()
    a, b = tree(leaves, depth - 1), tree(leaves, random.randint(0, depth - 1))
    kind = random.randint(0, 9)
    if kind < 3:
        return add(a, b)
    if kind < 5:
        return subtract(a, b)
    if kind < 8:
        return multiply(a, b)
    return divide(a, b) if kind == 8 else power(a)


def equality(a, b):
    """True, False, or None when sympy shows neither."""
    difference = simplify(radsimp(expand(together(a - b), complex=False)))
    if difference == 0:
        return True
    free = sorted(difference.free_symbols, key=str)
    for _ in range(4):
        point = {v: Rational(random.randint(11, 97), random.randint(3, 10)) for v in free}
        value = difference.subs(point).evalf(60)
        if value.is_number and value.is_finite and abs(value) > sympy.Float("1e-30", 60):
            return False
    return None


def written(value):
    return latex(value, ln_notation=True, imaginary_unit="i")


def rewritings(value):
    forms = [expand(value), factor(value), together(value), radsimp(value)]
    return [f for f in forms if f.is_finite is not False]


rows, seen = [], set()


def row(kind, a, b, equal, longest=160):
    if (a, b) in seen or len(a) > longest or len(b) > longest or equal is None:
        return
    seen.add((a, b))
    rows.append([kind, a, b, equal])


def family(kind, leaves, depth, count):
    """`count` expressions against what sympy makes of them, and against neighbours of that."""
    goal = len(rows) + count
    while len(rows) < goal:
        a = tree(leaves, depth)
        if a[1].has(sympy.zoo, sympy.nan, sympy.oo) or a[1].is_number and abs(a[1]) > 10**12:
            continue
        value = random.choice(rewritings(a[1]))
        row(kind, a[0], written(value), equality(a[1], value))
        wrong = random.choice([value + 1, -value, 2 * value, value - Rational(1, 7), value * sqrt(2)])
        row(kind, a[0], written(expand(wrong)), equality(a[1], wrong))


family("rational", [whole, fraction, decimal], 2, 60)
family("surd", [whole, surd, quadratic_surd, fraction], 2, 90)
family("constant", [whole, constant, fraction], 2, 40)
family("complex", [whole, imaginary, quadratic_surd], 2, 40)
family("polynomial", [whole, variable, variable, fraction], 2, 70)
family("polynomial", [whole, variable, variable], 3, 40)
family("polynomial", [whole, variable, surd, constant], 2, 40)

# Conjugates, nested roots, powers: what people write for the same number.
for a, b, c in [(1, 1, 2), (2, 1, 3), (3, 2, 2), (5, 2, 6), (7, 4, 3), (11, 6, 2), (4, 1, 15), (9, 4, 5)]:
    inner = a + b * sqrt(Integer(c))
    for value in [sympy.sqrtdenest(sqrt(inner)), sympy.sqrtdenest(sqrt(inner)) + 1, -sympy.sqrtdenest(sqrt(inner))]:
        row("surd", rf"\sqrt{{{a} + {b}\sqrt{{{c}}}}}", written(value), equality(sqrt(inner), value))
    for value in [radsimp(1 / inner), radsimp(1 / inner) + 2]:
        row("surd", rf"\frac{{1}}{{{a}+{b}\sqrt{{{c}}}}}", written(value), equality(1 / inner, value))
for p, k, q in [(8, 2, 3), (16, 3, 4), (27, 1, 3), (2, 1, 2), (12, 3, 2), (32, -2, 5), (50, -1, 2), (81, 3, 4)]:
    value = Integer(p) ** Rational(k, q)
    row("surd", f"{p}^{{{k}/{q}}}", written(value), True)
    row("surd", rf"{p}^{{\frac{{{k}}}{{{q}}}}}", written(value + 1), False)
for a, b in [(r"\sqrt[3]{-8}", -2), (r"\sqrt{-9}", 3 * I), (r"\sqrt{3+4i}", 2 + I), (r"\sqrt{-3+4i}", 1 + 2 * I),
             (r"\sqrt{-5-12i}", 2 - 3 * I), (r"\frac{1}{2-i}", (2 + I) / 5), (r"i^{7}", -I)]:
    row("complex", a, written(sympy.sympify(b)), True)
    row("complex", a, written(-sympy.sympify(b)), False)

# Exact values of functions.
for k in range(-7, 19):
    for name, f in [(r"\sin", sin), (r"\cos", cos), (r"\tan", tan)]:
        value = f(pi * k / 12)
        if value.is_finite and random.random() < 0.5:
            value = sympy.sqrtdenest(radsimp(value))
            angle = random.choice([rf"{15 * k}^\circ", rf"\left(\frac{{{k}\pi}}{{12}}\right)"])
            row("trigonometry", f"{name}{angle if k >= 0 else '(' + angle + ')'}", written(value), True)
            row("trigonometry", f"{name}{angle if k >= 0 else '(' + angle + ')'}", written(value + 1), False)
for a, b, equal in [
    (r"\tan\theta", r"\frac{\sin\theta}{\cos\theta}", True),
    (r"\cot x", r"\frac{\cos x}{\sin x}", True),
    (r"\sin(-x)", r"-\sin x", True),
    (r"\cos(y-x)", r"\cos(x-y)", True),
    (r"\sin(y-x)", r"\sin(x-y)", False),
    (r"\sin^2 x", r"(\sin x)^2", True),
    (r"\sin^2 x", r"\sin x^2", False),
    (r"2\sin x\cos x", r"\cos x \cdot 2 \sin x", True),
    (r"\ln 12", r"2\ln 2 + \ln 3", True),
    (r"\ln 12", r"\ln 2 + \ln 3", False),
    (r"\log_2 8", "3", True),
    (r"\log_4 8", r"\frac{3}{2}", True),
    (r"\log_{10} 50", r"1 + \log_{10} 5", True),
    (r"\log 100", "2", True),
    (r"\ln\sqrt{e}", r"\frac12", True),
    (r"\frac{\ln 9}{\ln 3}", "2", True),
    (r"\frac{\ln 9}{\ln 3}", "3", False),
    (r"2^{n+1}", r"2\cdot 2^n", True),
    (r"4^{n}", r"2^{2n}", True),
    (r"6^n", r"2^n\cdot 3^n", True),
    (r"6^n", r"2^n+3^n", False),
    (r"\frac{3^{n+1}-1}{2}", r"\frac{3\cdot 3^n-1}{2}", True),
    (r"e^{2x}", r"(e^x)^2", True),
    (r"e^{x+1}", r"e\cdot e^x", True),
    (r"e^{-x}", r"\frac{1}{e^x}", True),
    (r"e^{2x}", r"e^{x^2}", False),
    (r"\sqrt{4x}", r"2\sqrt{x}", True),
    (r"\sqrt{x^2}", "x", False),
    (r"\sqrt{x+1}^2", "x+1", True),
    (r"\sqrt{2x+2}", r"\sqrt2\sqrt{x+1}", True),
    (r"\frac{1}{\sqrt{x}}", r"\frac{\sqrt{x}}{x}", True),
    (r"|-3|", "3", True),
    (r"|x-y|", "|y-x|", True),
    (r"|x|", "x", False),
    (r"\lfloor -2.5 \rfloor", "-3", True),
    (r"\lceil -2.5 \rceil", "-2", True),
    (r"\lfloor \frac{17}{5} \rfloor", "3", True),
    (r"\binom{10}{3}", "120", True),
    (r"\binom{52}{5}", "2598960", True),
    (r"\frac{20!}{18!}", "380", True),
    (r"5!", "121", False),
]:
    row("function", a, b, equal)

# Decimals, percent, mixed numbers, scientific notation.
for _ in range(30):
    d, value = decimal()
    row("decimal", d, written(value), True)
    row("decimal", d, written(value + Rational(1, 10**5)), False)
for digits, value in [(r"0.\overline{3}", Rational(1, 3)), (r"0.1\overline{6}", Rational(1, 6)),
                      (r"2.\overline{142857}", Rational(15, 7)), (r"0.\overline{9}", Integer(1))]:
    row("decimal", digits, written(value), True)
    row("decimal", digits, written(value - Rational(1, 10**9)), False)
row("decimal", "0.333333333333333333", r"\frac{1}{3}", False)
row("decimal", "1.41421356237309504880", r"\sqrt{2}", False)
row("decimal", "3.14159265358979323846", r"\pi", False)
for whole_part, p, q in [(1, 4, 5), (137, 1, 2), (3, 5, 7), (0, 1, 3), (12, 11, 12)]:
    value = whole_part + Rational(p, q)
    row("mixed", rf"{whole_part}\frac{{{p}}}{{{q}}}", written(value), True)
    row("mixed", rf"-{whole_part} \frac{{{p}}}{{{q}}}", written(-value), True)
    row("mixed", f"{whole_part} {p}/{q}", written(value), True)
    row("mixed", rf"{whole_part}\frac{{{p}}}{{{q}}}", written(Rational(whole_part * p, q)), False)
for mantissa, exponent in [("6.72", -5), ("3", 8), ("1.6", -19), ("6.02", 23)]:
    value = Rational(mantissa) * Integer(10) ** exponent
    row("decimal", rf"{mantissa} \times 10^{{{exponent}}}", written(value), True)
    row("decimal", rf"{mantissa} \times 10^{{{exponent}}}", written(value * 10), False)
for k, value in [(50, Rational(1, 2)), (12.5, Rational(1, 8)), (5, Rational(1, 20)), (120, Rational(6, 5))]:
    row("percent", rf"{k}\%", written(value), True)
    row("percent", rf"{k}\%", written(value * 10), False)

# Large whole numbers: quotients, products, powers.  The first three need the correction steps of long division (the
# digit guessed from the leading limbs is one or two too large).
divisions = [(0x7FFFFFFF80000000 << 64, (0x80000000 << 64) + 1), (0x80000000 << 64 | 3, (0x20000000 << 64) + 1),
             ((1 << 160) - (1 << 32), (1 << 96) - 1), ((1 << 2000) - 1, (1 << 1000) - 1), ((1 << 1024) - 1, 3)]
for _ in range(12):
    divisions.append((random.getrandbits(random.randint(100, 900)) + 1, random.getrandbits(random.randint(33, 400)) + 1))
for u, v in divisions:
    row("integer", rf"\lfloor\frac{{{u}}}{{{v}}}\rfloor", str(u // v), True, 700)
    if (u * v).bit_length() < 2000:  # the evaluator's numbers end at 2048 bits
        row("integer", rf"\frac{{{u} \cdot {v}}}{{{v}}}", str(u), True, 2000)
    row("integer", rf"{u} - {v} \cdot {u // v}", str(u % v), True, 1200)
    row("integer", rf"\lfloor\frac{{{u}}}{{{v}}}\rfloor", str(u // v + 1), False, 700)
for a, k in [(2, 521), (3, 400), (10, 300), (7, 60), (1234567, 12)]:
    row("integer", f"{a}^{{{k}}}", str(a**k), True, 700)
    row("integer", rf"\sqrt[{4}]{{{a**4}}}", str(a), True, 700)
    row("integer", f"{a}^{{{k}}} - 1", str(a**k), False, 700)

# Whole answers: brackets, order, counts, fractions in lowest terms.
PARTS = [("2", Integer(2)), (r"\frac{1}{3}", Rational(1, 3)), (r"2\sqrt{3}", 2 * sqrt(3)), (r"-\pi", -pi), ("x+1", x + 1)]
OTHER = [("2.0", Integer(2)), (r"\dfrac13", Rational(1, 3)), (r"\sqrt{12}", 2 * sqrt(3)), (r"-\pi", -pi), ("1+x", x + 1)]
for _ in range(24):
    k = random.sample(range(5), 2)
    m = random.choice([k, k, k[::-1], random.sample(range(5), 2)])
    left, right = random.choice("(["), random.choice(")]")
    left2, right2 = random.choice([(left, right), (left, right), (random.choice("(["), random.choice(")]"))])
    a = rf"\left{left}{OTHER[m[0]][0]},{OTHER[m[1]][0]}\right{right}"
    b = f"{left2}{PARTS[k[0]][0]}, {PARTS[k[1]][0]}{right2}"
    row("answer", a, b, (left, right) == (left2, right2) and m == k)
    for open_mark, close_mark in [(r"\{", r"\}"), ("", "")]:
        a = f"{open_mark}{OTHER[m[0]][0]}, {OTHER[m[1]][0]}{close_mark}"
        b = f"{open_mark}{PARTS[k[0]][0]}, {PARTS[k[1]][0]}{close_mark}"
        row("answer", a, b, sorted(m) == sorted(k))
for _ in range(30):
    p, q, times = random.randint(1, 12), random.randint(2, 12), random.randint(1, 3)
    value = Rational(p, q)
    if value.q == 1:
        continue
    reduced = rf"\frac{{{value.p}}}{{{value.q}}}"
    row("answer", f"{value.p * times}/{value.q * times}", reduced, times == 1)
    row("answer", rf"\dfrac{{-{value.p * times}}}{{{value.q * times}}}", "-" + reduced, times == 1)

# Every value pair may not contradict itself the other way round.
answers = [r for r in rows if r[0] == "answer"]
values = [r for r in rows if r[0] != "answer"]
with open(sys.argv[1] + "/reward_pairs.json", "w", encoding="utf-8") as out:
    out.write("[\n" + ",\n".join(json.dumps(r) for r in values + answers) + "\n]\n")
kinds = sorted({r[0] for r in rows})
for kind in kinds:
    some = [r[3] for r in rows if r[0] == kind]
    print(f"{kind}: {len(some)}, {sum(some)} equal")
