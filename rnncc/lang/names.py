"""Names: a name from a cell -> why C++ and CUDA can't take it, and the one that they are given."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Collection

from rnncc.ir import functions
from rnncc.ir.choices import RULES

LAYER_NAMES = ("x", "state", "self")

OPTIONS = frozenset(  # of a call, which no argument of a cell may hide
    {*"h0 return_state return_states lengths cu_seqlens reset observe".split(), *RULES}
)

STDINT_MACRO = r"(U?INT\w*|SIZE|PTRDIFF|WCHAR|WINT|SIG_ATOMIC)_(MAX|MIN|C|WIDTH)"

KEYWORDS = frozenset(
    """
    alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor
    bool break case catch char char8_t char16_t char32_t class co_await co_return co_yield compl
    concept const const_cast consteval constexpr constinit continue decltype default delete do
    double dynamic_cast else enum explicit export extern false float for friend goto if inline int
    long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
    public register reinterpret_cast requires restrict return short signed sizeof static
    static_assert static_cast struct switch template this thread_local throw true try typedef
    typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq linux unix
    __global__ __device__ __host__ __shared__ __constant__ __restrict__ threadIdx blockIdx blockDim
    gridDim warpSize half float2 float4 double2 int2 int4 dim3 asm typeof
    real rnncc std NAN INFINITY M_PI M_E EOF NULL assert errno signbit
    """.split()
)


def reserved(name: str) -> str:
    """Why the name can't go into C++ and CUDA; empty if it can."""
    if name in KEYWORDS or re.fullmatch(STDINT_MACRO, name):
        return "is a reserved word of C++ or CUDA"
    if name in functions.TABLE or name in ("shift", "mean", "silu", "gelu", "spike", "heaviside"):
        return "is the name of a function of rnncc"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
        return "is not a plain ASCII name (letters, digits, single underscores, a letter first)"
    if name.startswith("RNNCC"):
        return "starts with RNNCC, a prefix reserved for rnncc"
    return ""


def unreserved(name: str) -> str:
    """A name like it that C++ and CUDA can take: alpha for the Greek letter, u for _u."""
    text = re.sub(r"[\W_]+", "_", "".join(map(_ascii, name)).removeprefix("RNNCC"))
    plain = text.strip("_").lstrip("0123456789_") or "value"
    return f"{plain}_" if reserved(plain) else plain


def emitted(name: str, taken: Collection[str], own: Collection[str] = ()) -> str:
    """The name in C++ and CUDA: the author's where it is free, else one like it.

    Args:
        taken: what already stands for another value.
        own: the author's names, which no other name may hide.
    """
    if name not in taken and not reserved(name):
        return name
    plain = unreserved(name) if reserved(name) else name
    numbered = (f"{plain.rstrip('_')}_{k}" for k in itertools.count(2))
    proposals = itertools.chain([plain] if plain != name else [], numbered)
    return next(n for n in proposals if n not in taken and n not in own and not reserved(n))


def _ascii(letter: str) -> str:
    """A letter in ASCII; one with a name, such as a Greek one, stands apart from its neighbours."""
    if letter.isascii():
        return letter
    base = unicodedata.normalize("NFKD", letter)[0]
    if base.isascii():
        return base
    plain = base.casefold()
    if plain.isascii():
        return plain
    found = re.search(r"(SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)", unicodedata.name(base, ""))
    if not found:
        return "_"
    word = found[2].lower().replace("lamda", "lambda")
    word = word.capitalize() if found[1] == "CAPITAL" else word
    return word if len(word) == 1 else f"_{word}_"
