"""Variants of a module that differ from it in one expression or statement.

Left out, since no caller depends on them: annotations, decorators, docstrings, and the texts of messages (f-strings,
and whatever a `raise` passes to its error). Texts of SQL are varied by their words (`statements.py`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from mutation import statements

_COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_FUNCTIONS = {"min": "max", "max": "min", "all": "any", "any": "all"}
_STEPS = {"strip", "rstrip", "upper", "lower"}
"""Methods that give back something of the kind of their object, so that the call can be forgotten."""
_UNREAD = {"annotation", "returns", "decorator_list", "type_params", "type_comment"}


@dataclass(frozen=True)
class Mutant:
    """One variant. `name` says where and what in a way that survives changes elsewhere in the file."""

    module: str
    line: int
    name: str
    code: CodeType


class Words(ast.Constant):
    """A text of SQL with a word or two exchanged, and these as they were and are."""

    def __init__(self, value: str, before: str, after: str) -> None:
        super().__init__(value)
        self.told = before, after


@dataclass(frozen=True)
class _Place:
    """A node of the tree by its holder, so that another one can be put there."""

    holder: ast.AST
    field: str
    index: int | None
    scope: str
    function: ast.AST | None

    @property
    def node(self) -> ast.AST:
        value = getattr(self.holder, self.field)
        return value if self.index is None else value[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


def mutants(module: str, source: str, path: str = "<mutant>") -> list[Mutant]:
    """All variants of the source of `module`, in the order of the file."""
    tree = ast.parse(source)
    made: list[Mutant] = []
    seen: Counter[str] = Counter()
    for place in list(_places(tree, "", None)):
        original = place.node
        for variant in _variants(place):
            before, after = variant.told if isinstance(variant, Words) else (_told(original), _told(variant))
            name = f"{place.scope or 'module'}: {before} -> {after}"
            seen[name] += 1
            place.put(ast.fix_missing_locations(ast.copy_location(variant, original)))
            code = compile(tree, path, "exec")
            place.put(original)
            numbered = name if seen[name] == 1 else f"{name} #{seen[name]}"
            made.append(Mutant(module, getattr(original, "lineno", 0), numbered, code))
    return made


def _told(node: ast.AST) -> str:
    return "nothing" if isinstance(node, ast.Pass) else " ".join(ast.unparse(node).split())


def _places(holder: ast.AST, scope: str, function: ast.AST | None) -> Iterator[_Place]:
    """Every node that may be replaced, holders before what they hold."""
    if isinstance(holder, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{holder.name}" if scope else holder.name
        function = holder if isinstance(holder, ast.FunctionDef) else function
    elif not scope and isinstance(holder, ast.Assign) and isinstance(holder.targets[0], ast.Name):
        scope = holder.targets[0].id
    for field, value in ast.iter_fields(holder):
        if field in _UNREAD:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_text(node):
                continue
            if isinstance(node, ast.FormattedValue) and isinstance(holder, ast.JoinedStr):
                continue
            yield _Place(holder, field, index, scope, function)
            if not isinstance(node, ast.Raise):
                yield from _places(node, scope, function)


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return not any(isinstance(part, ast.Constant) and statements.is_sql(part.value) for part in node.values)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _variants(place: _Place) -> Iterator[ast.AST]:
    node = place.node
    match node:
        case ast.Compare():
            yield from _compared(node)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            for left_out in range(len(node.values)):
                rest = node.values[:left_out] + node.values[left_out + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
        case ast.Constant() if statements.is_sql(node.value):
            yield from (Words(new, before, after) for new, before, after in statements.varied(node.value))
        case ast.Constant() if isinstance(place.holder, ast.JoinedStr):
            pass
        case ast.Constant():
            yield from map(ast.Constant, _other_values(node.value))
        case ast.Call():
            yield from _called(node)
        case ast.stmt():
            yield from _stated(node, place.function)
    if place.field in ("test", "ifs") and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)


def _compared(node: ast.Compare) -> Iterator[ast.AST]:
    for position, operator in enumerate(node.ops):
        for other in _COMPARISONS[type(operator)]:
            yield ast.Compare(node.left, [*node.ops[:position], other(), *node.ops[position + 1 :]], node.comparators)


def _other_values(value: object) -> list[bool] | list[int] | list[str] | list[bytes]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, str):
        return ["" if value else "mutant"]
    if isinstance(value, bytes):
        return [b"" if value else b"mutant"]
    return []


def _called(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if isinstance(node.func, ast.Name) and name in _FUNCTIONS:
        yield ast.Call(ast.Name(_FUNCTIONS[name], ast.Load()), node.args, node.keywords)
    if isinstance(node.func, ast.Attribute) and name in _STEPS:
        yield node.func.value


def _stated(node: ast.stmt, function: ast.AST | None) -> Iterator[ast.AST]:
    match node:
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr() | ast.Continue() | ast.Break() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)]) if function is not None and _bound(function, name) > 1:
            yield ast.Pass()


def _bound(function: ast.AST, name: str) -> int:
    """How often the function gives the name a value. Without the only time there is a NameError, which says nothing."""
    return sum(
        (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.arg) and node.arg == name)
        for node in ast.walk(function)
    )


def chosen(every: list[Mutant], words: str) -> list[Mutant]:
    """The mutants whose module and name contain `words`."""
    return [mutant for mutant in every if words in f"{mutant.module} {mutant.name}"]
