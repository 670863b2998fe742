"""What griffe must know to read hamflow's source as a user reads it.

- An `equinox.Module` that writes no `__init__` is a dataclass: its fields are its arguments.
- `from .base import Name as Name` publishes a name, by the convention of type checkers.
- The string in `Float[Array, "batch *event"]` is a shape: it stays as it was written. Griffe would read the string as
  code ("batch times event").
"""

import ast

import griffe

_MODULE = {"equinox.Module", "equinox._module.Module"}
_FIELD = {"equinox.field", "dataclasses.field"}
_NO_FIELD = {"typing.ClassVar", "equinox.AbstractVar", "equinox.AbstractClassVar"}


class EquinoxSignatures(griffe.Extension):
    def on_alias_instance(self, *, alias, node, **_):
        if isinstance(node, ast.ImportFrom):
            alias.public = any(name.asname == name.name == alias.name for name in node.names)

    def on_function_instance(self, *, func, node, **_):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
                func.parameters[argument.arg].annotation = _as_written(argument.annotation, func)
            func.returns = _as_written(node.returns, func)

    def on_attribute_instance(self, *, attr, node, **_):
        if isinstance(node, ast.AnnAssign):
            attr.annotation = _as_written(node.annotation, attr)

    def on_package(self, *, pkg, **_):
        # All are found before one is changed: a class would inherit what its parent has been given.
        for cls in list(_without_init(pkg)):
            _add_signature(cls)


def _as_written(annotation, owner):
    return griffe.safe_get_expression(annotation, parent=owner.parent, parse_strings=False)


def _without_init(container):
    """The Equinox modules that neither write nor inherit an `__init__`."""
    for member in container.members.values():
        if not member.is_alias and (member.is_class or member.is_module):
            if member.is_class and _is_equinox_module(member) and "__init__" not in member.all_members:
                yield member
            yield from _without_init(member)


def _is_equinox_module(cls):
    return any(getattr(base, "canonical_path", base) in _MODULE for c in [cls, *cls.mro()] for base in c.bases)


def _add_signature(cls):
    fields = {}
    for ancestor in [*reversed(cls.mro()), cls]:
        for name, attribute in ancestor.members.items():
            if attribute.is_attribute and attribute.annotation is not None and "property" not in attribute.labels:
                annotated = getattr(attribute.annotation, "left", attribute.annotation)
                if getattr(annotated, "canonical_path", None) not in _NO_FIELD:
                    fields[name] = attribute
    parameters = [_parameter(attribute) for attribute in fields.values()]
    parameters = [parameter for parameter in parameters if parameter is not None]
    if parameters:
        parameters.sort(key=lambda parameter: parameter.kind is griffe.ParameterKind.keyword_only)
        this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        init = griffe.Function(
            "__init__", parent=cls, parameters=griffe.Parameters(this, *parameters), lineno=cls.lineno
        )
        cls.set_member("__init__", init)


def _parameter(attribute):
    """The argument that a field becomes; None for a field that `__init__` does not take."""
    default, options = attribute.value, {}
    if isinstance(default, griffe.ExprCall) and default.canonical_path in _FIELD:
        options = {keyword.name: keyword.value for keyword in default.arguments}
        default = options.get("default", options.get("default_factory"))
    if options.get("init") == "False":
        return None
    kinds = griffe.ParameterKind
    kind = kinds.keyword_only if options.get("kw_only") == "True" else kinds.positional_or_keyword
    return griffe.Parameter(attribute.name, annotation=attribute.annotation, kind=kind, default=default)
