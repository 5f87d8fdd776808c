"""What a chapter shows of its code: the signatures and the lessons, with the source below a line to open.

The notebooks stay as they are; this is done while the pages are made, with elements that need no script."""
import ast, itertools, re

DEFINING = ast.FunctionDef, ast.ClassDef, ast.Assign
LONG = 25 # lines of a lesson that are still shown unasked

def directives(source):
    "What a cell says to nbdev."
    return re.findall(r'^#\|\s*(\w+)', source, re.M)

def undirected(source):
    "Code without what it says to nbdev."
    return '\n'.join(line for line in source.splitlines() if not line.startswith('#|'))

def statements(source):
    "What stands at the top level of some code; within its conditions as well."
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.If, ast.Try)): yield node
        else: yield from (inner for inner in ast.walk(node) if isinstance(inner, DEFINING))

def patched(node):
    "The class that a function is put into by fastcore's `patch`, with a dot; else ''."
    if not any(isinstance(d, ast.Name) and d.id == 'patch' for d in node.decorator_list): return ''
    return f'{ast.unparse(node.args.args[0].annotation)}.'

def names_of(node):
    "The names that a statement defines."
    if isinstance(node, ast.ClassDef): return [node.name]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): return [patched(node) + node.name]
    if isinstance(node, ast.AnnAssign): return [ast.unparse(node.target)]
    if not isinstance(node, ast.Assign): return []
    targets = [part for target in node.targets for part in getattr(target, 'elts', [target])]
    return [ast.unparse(target) for target in targets]

def is_public(name): return not any(part.startswith('_') for part in name.split('.'))

def text_until(source, node, line, column=None):
    "The code from a statement's first line, with its decorators, up to a place, by default a line's end."
    first = min([node.lineno, *[d.lineno for d in getattr(node, 'decorator_list', [])]])
    lines = source.splitlines()[first - 1:line]
    lines[-1] = lines[-1].encode()[:column].decode()
    return '\n'.join(lines).rstrip()

def last_field(node):
    "The last of the fields that a class begins with, or None."
    fields = node.body[1:] if ast.get_docstring(node) else node.body
    begun = list(itertools.takewhile(lambda part: isinstance(part, ast.AnnAssign), fields))
    return begun[-1] if begun else None

def signature(source, node):
    "What one has to know of a statement to use what it defines; '' where it defines nothing."
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        found = text_until(source, node, node.end_lineno)
        return found if found.count('\n') < 6 else f'{found.splitlines()[0]} ...'
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): return ''
    field = last_field(node) if isinstance(node, ast.ClassDef) else None
    if field: return text_until(source, node, field.end_lineno)
    first = node.body[0]
    if ast.get_docstring(node): return text_until(source, node, first.end_lineno)
    begin = min([first.lineno, *[d.lineno for d in getattr(first, 'decorator_list', [])]])
    if begin > node.lineno: return f'{text_until(source, node, begin - 1)} ...'
    return f'{text_until(source, node, begin, first.col_offset)} ...'

def label(module, name):
    "Where a name's source is; labels know no capitals, so a class and a function of one name are told apart."
    kind = '' if name == name.lower() else '-value' if name.isupper() else '-class'
    return f'{module}.{name.lower()}{kind}'

def summary(source):
    "The line that stands for folded source."
    names = [name for node in statements(source) for name in names_of(node)]
    return f'Source: {", ".join(dict.fromkeys(names))}' if names else 'Source'

def folded(cell, words):
    "A cell whose code is opened by a line of these words."
    prompts = dict(code_prompt_show=words, code_prompt_hide=words)
    return {**cell, 'metadata': dict(tags=['hide-input', *cell['metadata'].get('tags', [])], mystnb=prompts)}

def signatures(source):
    "The public part of a cell, as code."
    found = [signature(source, node) for node in statements(source) if any(map(is_public, names_of(node)))]
    apart = '\n\n' if any('\n' in text for text in found) else '\n'
    return apart.join(filter(None, found))

def labels(source, module, known):
    "A label for each name of a cell that is one of the module's `known`, which are then crossed off."
    names = [name for node in statements(source) for name in names_of(node) if name in known]
    known.difference_update(names)
    return '\n'.join(f'({label(module, name)})=' for name in dict.fromkeys(names))

def fold(cell, module, known):
    "The cells of a chapter's code cell: signatures and folded source, a long lesson folded, or the cell as it is."
    source = ''.join(cell['source'])
    code = undirected(source)
    look = {} if module else dict(tags=['wrap'])  # in the book code keeps its lines
    cell, lines = {**cell, 'metadata': look, 'source': code}, len(code.splitlines())
    if 'exports' not in directives(source):
        yield folded(cell, f'Code of {lines} lines') if lines > LONG else cell
        return
    shown = signatures(code)
    block = f'{labels(code, module, known)}\n```python\n{shown}\n```' if shown else ''
    if shown: yield dict(cell_type='markdown', metadata={}, id=f'{cell["id"]}-use', source=block.lstrip())
    if shown.strip() != code.strip(): yield folded(cell, summary(code))
