"""
All mutations of a module, as changes of its text.

Decides what a mutation is and which code has none.  Knows nothing of tests.

No mutations are made of annotations, decorators, docstrings and other texts, assertions, protocol classes, and of what
is for the type checker only.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_UNTOUCHED = (ast.Assert, ast.Import, ast.ImportFrom, ast.Pass, ast.Global, ast.Nonlocal)
#: Calls whose arguments are not swapped: the order does not matter, or a type checker sees it.
_SYMMETRIC = {"max", "min", "cast", "isinstance", "TypeVar", "NewType"}


@dataclass(frozen=True)
class Mutation:
    """
    One change of a module's text: source[start:end] becomes replacement.
    """

    #: Path of the module, relative to the root of the project.
    path: str
    #: Qualified name of the function or class it is in; "" at the top of the module.
    where: str
    #: First and last line, from 1.
    lines: tuple[int, int]
    operator: str
    start: int
    end: int
    replacement: str
    #: The changed lines as one line of text, and what becomes of them.
    before: str
    after: str

    def apply(self, source: str) -> str:
        """
        Return the module's text with the change.
        """
        return source[: self.start] + self.replacement + source[self.end :]


def mutations(path: str, source: str) -> list[Mutation]:
    """
    Return all mutations of a module, in the order of its text.
    """
    return _Finder(path, source).find()


def is_change(source: str, mutation: Mutation) -> bool:
    """
    Return False if the mutated text does not parse, or means what the original does.
    """
    try:
        return ast.dump(ast.parse(mutation.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Finder:
    """
    Walks one module.
    """

    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        #: Names that the function assigns more than once: without one of these statements it can still run.
        self._reassigned: set[str] = set()
        self._found: list[Mutation] = []

    def find(self) -> list[Mutation]:
        """
        Return what was found, in the order of the text.
        """
        self._body(ast.parse(self._source).body)
        return sorted(self._found, key=lambda mutation: (mutation.start, mutation.end, mutation.replacement))

    # Positions.

    def _offset(self, line: int, column: int) -> int:
        """
        Return the index of a character; ast counts columns in octets of UTF-8.
        """
        text = self._lines[line - 1]
        return self._starts[line - 1] + len(text.encode()[:column].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._source[start:end]

    def _add(self, operator: str, start: int, end: int, replacement: str) -> None:
        first = self._source.count("\n", 0, start) + 1
        last = self._source.count("\n", 0, end) + 1
        from_, to = self._starts[first - 1], self._starts[last]
        before = self._source[from_:to]
        after = self._source[from_:start] + replacement + self._source[end:to]
        self._found.append(
            Mutation(
                self._path,
                ".".join(self._scope),
                (first, last),
                operator,
                start,
                end,
                replacement,
                " ".join(before.split()),
                " ".join(after.split()),
            )
        )

    def _between(self, left: ast.expr, right: ast.expr, operator: str, name: str, others: tuple[str, ...]) -> None:
        """
        Replace the operator that stands between two expressions.
        """
        gap_start, gap_end = self._span(left)[1], self._span(right)[0]
        at = self._source.find(operator, gap_start, gap_end)
        if at >= 0:
            for other in others:
                self._add(name, at, at + len(operator), other)

    # Statements.

    def _body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._function(node)
        elif isinstance(node, ast.ClassDef):
            if not any(ast.unparse(base).split("[")[0] in {"Protocol", "Interface"} for base in node.bases):
                self._scope.append(node.name)
                self._body(node.body)
                self._scope.pop()
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            self._body(node.orelse)
        elif not isinstance(node, _UNTOUCHED) and not _is_docstring(node):
            self._changes(node)
            self._parts(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        outer, self._reassigned = self._reassigned, _reassigned(node)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self._expression(default)
        self._body(node.body)
        self._reassigned = outer
        self._scope.pop()

    def _parts(self, node: ast.AST) -> None:
        """
        Visit everything inside, but annotations.
        """
        for field, value in ast.iter_fields(node):
            if field in {"annotation", "returns", "decorator_list"} or (field == "value" and _is_strictness(node)):
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.stmt):
                    self._statement(part)
                elif isinstance(part, ast.expr):
                    self._expression(part)
                elif isinstance(part, ast.AST):
                    self._parts(part)

    def _changes(self, node: ast.stmt) -> None:
        """
        Add the changes of one statement as a whole.
        """
        start, end = self._span(node)
        if isinstance(node, ast.Break):
            self._add("break/continue", start, end, "continue")
        elif isinstance(node, ast.Continue):
            self._add("break/continue", start, end, "break")
        elif isinstance(node, ast.Return):
            self._returned(node)
        elif isinstance(node, ast.Raise | ast.Delete) or (isinstance(node, ast.Expr) and self._is_call(node.value)):
            self._add("dropped statement", start, end, "pass")
        elif isinstance(node, ast.AugAssign):
            if self._scope:
                self._add("dropped statement", start, end, "pass")
            old, new = _ARITHMETIC.get(type(node.op), ("", ""))
            if old:
                self._between(node.target, node.value, old + "=", "arithmetic", (new + "=",))
        elif isinstance(node, ast.Assign) and self._is_droppable(node.targets):
            self._add("dropped statement", start, end, "pass")
        elif isinstance(node, ast.If | ast.While):
            self._condition(node.test)

    @staticmethod
    def _is_call(node: ast.expr) -> bool:
        return isinstance(node, ast.Call | ast.Await)

    def _is_droppable(self, targets: list[ast.expr]) -> bool:
        names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.expr)]
        if any(isinstance(name, ast.Attribute | ast.Subscript) for name in names):
            return True
        return all(not isinstance(name, ast.Name) or name.id in self._reassigned for name in names)

    def _returned(self, node: ast.Return) -> None:
        if node.value is None:
            return
        start, end = self._span(node.value)
        if isinstance(node.value, ast.Compare | ast.BoolOp):
            self._add("return value", start, end, f"not ({self._text(node.value)})")
        elif not isinstance(node.value, ast.Constant):
            self._add("return value", start, end, "None")

    def _condition(self, test: ast.expr) -> None:
        """
        Negate a condition, unless a change of its operator does that.
        """
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return
        if isinstance(test, ast.Constant) or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            return
        start, end = self._span(test)
        self._add("negation", start, end, f"not ({self._text(test)})")

    # Expressions.

    def _expression(self, node: ast.expr) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for left, right, comparison in zip(operands, operands[1:], node.ops, strict=False):
                old, new = _COMPARISONS[type(comparison)]
                self._between(left, right, old, "comparison", new)
        elif isinstance(node, ast.BinOp):
            old, other = _ARITHMETIC.get(type(node.op), ("", ""))
            if old:
                self._between(node.left, node.right, old, "arithmetic", (other,))
        elif isinstance(node, ast.BoolOp):
            old, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                self._between(left, right, old, "and/or", (other,))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, end = self._span(node)
            self._add("negation", start, end, self._source[start + len("not") : end].strip())
        elif isinstance(node, ast.Constant):
            self._constant(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Slice):
            for bound in (node.lower, node.upper):
                if bound is not None:
                    self._add("slice", *self._span(bound), "")
        elif isinstance(node, ast.IfExp):
            self._condition(node.test)
        elif isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp):
            for generator in node.generators:
                for condition in generator.ifs:
                    self._condition(condition)
        self._parts(node)

    def _constant(self, node: ast.Constant) -> None:
        start, end = self._span(node)
        value = node.value
        if isinstance(value, bool):
            self._add("constant", start, end, str(not value))
        elif isinstance(value, int):
            self._add("constant", start, end, str(value + 1))
            self._add("constant", start, end, str(value - 1) if value else "(-1)")
        elif isinstance(value, float):
            self._add("constant", start, end, str(value * 2 if value else 1.0))
            self._add("constant", start, end, str(value / 2 if value else -1.0))
        elif isinstance(value, bytes) and value:
            self._add("constant", start, end, repr(value[:-1]))

    def _call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name in {"max", "min"}:
            self._add("min/max", *self._span(node.func), "min" if name == "max" else "max")
        if name in _SYMMETRIC:
            return
        for left, right in zip(node.args, node.args[1:], strict=False):
            if not isinstance(left, ast.Starred) and not isinstance(right, ast.Starred):
                (start, left_end), (right_start, end) = self._span(left), self._span(right)
                between = self._source[left_end:right_start]
                self._add("swapped arguments", start, end, self._text(right) + between + self._text(left))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_strictness(node: ast.AST) -> bool:
    """
    Return whether this is the `strict=` of a zip, which is an assertion.
    """
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _reassigned(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """
    Return the names that a function binds more than once, its arguments counted.
    """

    def bound() -> Iterator[str]:
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.arg):
                yield node.arg

    names = list(bound())
    return {name for name in names if names.count(name) > 1}
