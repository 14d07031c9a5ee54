"""Emit: Compiled -> {file name: text}. The only module that fills in templates with Jinja."""

from __future__ import annotations

from collections.abc import Mapping

import jinja2

from rnncc import paths
from rnncc.codegen.cell_text import cell_text
from rnncc.codegen.header import commented, mathematics, origin
from rnncc.codegen.kernel_spec import as_json, kernel_spec
from rnncc.codegen.layout import function
from rnncc.codegen.module import module_context
from rnncc.codegen.once import once
from rnncc.ir.program import Compiled
from rnncc.ir.spec import CUDA_KERNELS, RECORD, SOURCES, TANGENT, KernelSpec, digest_of


def emit(
    compiled: Compiled,
    fast_math: bool = False,
    spec: KernelSpec | None = None,
    tangent: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The files of the generated package.

    Args:
        fast_math: let CUDA kernels compute sigmoid and tanh with the GPU's own, less exact tanh.
        spec: that of the cell, if it is known.
        tangent: the files of the tangent cell, to be part of the package.
    """
    spec, name = spec or kernel_spec(compiled, fast_math), compiled.cell.name
    only, templates = once(compiled, spec.effort), _environment()

    def header(template: str, *more: str) -> str:
        return commented([*origin(compiled, spec, template), "", *more], "//")

    def render(template: str, **context: object) -> str:
        return templates.get_template(template).render(context).rstrip() + "\n"

    files = {
        "cell.h": render(
            "cell.h.j2",
            header=header("cell.h.j2", *mathematics(compiled)),
            cell=cell_text(compiled, only),
            ahead=spec.ahead,
        ),
        "cell.json": as_json(spec),
        "kernel.cpp": render(
            "kernel.cpp.j2",
            header=header(
                "kernel.cpp.j2", f"The functions that the C++ library of {name} exports."
            ),
            large=only.large,
            exports=_exports(spec),
        ),
        "kernel.cu": render(
            "kernel.cu.j2",
            header=header("kernel.cu.j2", f"The CUDA kernels of {name}."),
            parts=_kernels(spec),
            one_pass=spec.one_pass,
            fast_math=spec.fast_math,
        ),
    }
    module = module_context(compiled, spec) | {"digest": digest_of(files), "tangent": ""}
    if tangent is not None:
        module["tangent"] = digest_of(tangent)
        files |= {f"{TANGENT}/{name}": tangent[name] for name in (RECORD, *SOURCES)}
    return {"__init__.py": render("module.py.j2", **module), **files}


def _exports(spec: KernelSpec) -> list[str]:
    """The functions of the library, which the CPU's launcher looks up."""
    return [
        function(
            f"RNNCC_EXPORT int {spec.name}_{part}(const rnncc::Args* a)",
            f"return rnncc::run_{part}(*a);",
        )
        for part in ("forward", "backward", *(["jacobian"] if spec.has_jacobian else []))
    ]


def _kernels(spec: KernelSpec) -> list[tuple[int, str, list[str]]]:
    """The kernels by the part that they are compiled in: its number and name."""
    names, of_tiles = list(CUDA_KERNELS), 32 * spec.warps
    return [
        (number, names[number], [_kernel(spec.name, k, t or of_tiles) for k, t in kernels.items()])
        for number, kernels in spec.cuda_parts.items()
    ]


def _kernel(name: str, kernel: str, threads: int) -> str:
    head = f"RNNCC_KERNEL({threads}) {name}_{kernel}(rnncc::Args a)"
    return function(head, f"rnncc::{kernel}(a);")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.templates()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
