"The API as Markdown: a page for each module, made from the package, each name with a link to its chapter."
import ast, importlib, inspect, re
from pathlib import Path
from fastcore.docments import docments
from folding import label, names_of, signature, statements

ROOT = Path(__file__).resolve().parents[2]

def chapters():
    "module: its chapter's file name, in the order of the book."
    stems = sorted(p.stem for p in (ROOT/'nbs').glob('[0-9]*.ipynb'))
    return {stem.split('_', 1)[1]: stem for stem in stems}

def code_of(module): return (ROOT/f'coderank_qdrant/{module}.py').read_text(encoding='utf-8')

def public(module):
    "The public names of a module, in the order of their chapter."
    found = re.search(r'^__all__ = \[(.*?)\]', code_of(module), re.S | re.M)
    return re.findall(r"'(\w+)'", found[1]) if found else []

KNOWN = {module: names for module in chapters() if (names := public(module))}

def target(module, name): return f'api.{label(module, name)}'

def escaped(words):
    "Words in a table or a sentence: what is not in backquotes has no meaning for Markdown."
    parts = re.split(r'(`[^`]*`)', words)
    plain = [part if part.startswith('`') else re.sub(r'([<>*\[\]_$])', r'\\\1', part) for part in parts]
    return ''.join(plain).replace('|', '\\|')

def unparsed(part): return ast.unparse(part) if part else ''
def in_code(text): return f'`{text}`'.replace('|', '\\|') if text else ''

def parameters(node):
    "(name as it is written, type, default) of each parameter of a function, as texts."
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None]*(len(plain) - len(args.defaults)) + args.defaults
    found = list(zip(plain, defaults, strict=True))
    if args.vararg: found.append((args.vararg, None))
    found += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    if args.kwarg: found.append((args.kwarg, None))
    stars = {id(args.vararg): '*', id(args.kwarg): '**'}
    return [(stars.get(id(arg), '') + arg.arg, unparsed(arg.annotation), unparsed(default)) for arg,default in found]

def fields(node):
    "The same of a class: its fields, or the parameters of its `__init__`."
    begin = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == '__init__'), None)
    if begin: return [row for row in parameters(begin) if row[0] != 'self']
    shown = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    return [(part.target.id, unparsed(part.annotation), unparsed(part.value)) for part in shown]

def delegated(rows, thing):
    "The same, with the parameters that fastcore's `delegates` puts in the place of `**kwargs`."
    known = inspect.signature(thing).parameters
    if not rows or not rows[-1][0].startswith('**') or rows[-1][0].strip('*') in known: return rows
    names = {row[0] for row in rows}
    more = [parameter for name,parameter in known.items() if name not in names]
    kinds = [getattr(part.annotation, '__name__', str(part.annotation)) for part in more]
    return rows[:-1] + [(part.name, kind, repr(part.default)) for part,kind in zip(more, kinds, strict=True)]

def call(node, rows):
    "How something is called; over several lines where it is long."
    parts = [f'{name}={value}' if value else name for name,_,value in rows]
    back = f'->{unparsed(node.returns)}' if getattr(node, 'returns', None) else ''
    line = f'{node.name}({", ".join(parts)}){back}'
    if len(line) <= 88: return line
    return f'{node.name}(\n' + ''.join(f'    {part},\n' for part in parts) + f'){back}'

def behind(source, node):
    "The comment behind a function's parameters, which docments leaves out where no type is given."
    if not isinstance(node, ast.FunctionDef) or node.body[0].lineno == node.lineno: return ''
    found = re.search(r'\)[^#]*:\s*#\s*(.*)$', source.splitlines()[node.body[0].lineno - 2])
    return found[1] if found else ''

def said(source, node, thing):
    "What the comments beside the parameters say, by name."
    found = docments(inspect.unwrap(thing), returns=True, args_kwargs=True)
    words = {name: ' '.join(str(text).split()) for name,text in found.items() if text}
    last = behind(source, node)
    return words if last in words.values() else {**words, 'return': last}

RAISES = re.compile(r'(?:(?:^|[;.] )raises? |\braises? (?:an? )?(?=`))(.*)', re.I)

def raised(texts):
    "The parts of some texts that say what is raised."
    found = [RAISES.search(text) for text in texts]
    clauses = [re.split(r'; |\. |\.$', match[1])[0] for match in found if match]
    return list(dict.fromkeys(clauses))

def otherwise(text):
    "What a text says beside that."
    return '; '.join(part for part in text.split('; ') if not RAISES.match(part))

def markdown_table(head, rows):
    "A table without the columns in which nothing stands; '' without rows."
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [head, ['---']*len(head), *rows] if rows else []
    return '\n'.join('| ' + ' | '.join(line[i] for i in kept) + ' |' for line in lines)

def table(rows, words):
    "The parameters as a table."
    def meaning(name): return escaped(words.get(name.strip('*'), ''))
    lines = [[f'`{name}`', in_code(kind), in_code(value), meaning(name)] for name,kind,value in rows]
    return markdown_table(['parameter', 'type', 'default', 'meaning'], lines)

def methods(thing):
    "The public methods and properties of a class, also those that later chapters put into it."
    lines = []
    for name,value in vars(thing).items():
        function = getattr(value, 'fget', None) or getattr(value, '__func__', value)
        if name.startswith('_') or not inspect.isfunction(function): continue
        if not function.__module__.startswith('coderank_qdrant'): continue
        about = ' '.join((inspect.getdoc(function) or '').split())
        taken = ', '.join(list(inspect.signature(function).parameters)[1:])
        shown = name if isinstance(value, property) else f'{name}({taken})'
        lines.append([f'`{shown}`', escaped(about)])
    return markdown_table(['method or property', 'what it does'], lines)

def parts_of(source, node, thing):
    "What is said of a name, as blocks of Markdown."
    if isinstance(node, (ast.Assign, ast.AnnAssign)): return [f'```python\n{signature(source, node)}\n```']
    is_class = isinstance(node, ast.ClassDef)
    rows = fields(node) if is_class else delegated(parameters(node), thing)
    about, words = ' '.join((ast.get_docstring(node) or '').split()), said(source, node, thing)
    back = [in_code(unparsed(getattr(node, 'returns', None))), escaped(otherwise(words.get('return', '')))]
    returns = f'**Returns** {": ".join(filter(None, back))}' if any(back) else ''
    raises = raised([about, *words.values()])
    return [f'```python\n{"class " * is_class}{call(node, rows)}\n```', escaped(about), table(rows, words), returns,
            f'**Raises** {"; ".join(map(escaped, raises))}' if raises else '', methods(thing) if is_class else '']

def entry(module, name, source, node):
    "A name's part of the page."
    thing = getattr(importlib.import_module(f'coderank_qdrant.{module}'), name)
    head = f'({target(module, name)})=\n## {escaped(name)}'
    chapter = f'Source: [chapter {module}](#{label(module, name)})'
    return '\n\n'.join(filter(None, [head, *parts_of(source, node, thing), chapter]))

def about(module): return ast.get_docstring(ast.parse(code_of(module))) or ''

def module_page(module):
    "The page of a module."
    source = code_of(module)
    nodes = {name: node for node in reversed(list(statements(source))) for name in names_of(node)}
    entries = [entry(module, name, source, nodes[name]) for name in KNOWN[module]]
    chapter = f'why and how is told in [its chapter](../{chapters()[module]}.ipynb)'
    use = f'`from coderank_qdrant.{module} import ...`; {chapter}.'
    return '\n\n'.join([f'# {module}', f'> {about(module)}', use, *entries]) + '\n'

def index_page():
    "The list of all modules."
    def row(module): return [f'[`{module}`](api/{module}.md)', escaped(about(module)), str(len(KNOWN[module]))]
    table = markdown_table(['module', 'what it is for', 'names'], list(map(row, KNOWN)))
    pages = '\n'.join(f'api/{module}' for module in KNOWN)
    return '\n'.join([
        '# The API', '', '> Every public name, a page for each module', '',
        'Most need [ten names](lookup/python.md) and no more. Here are all, with what they take, give back and raise; '
        'each leads to its source in the book. The modules stand in the order of the chapters.', '',
        table, '', f':::{{toctree}}\n:hidden:\n\n{pages}\n:::', ''])
