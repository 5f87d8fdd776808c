"""How dense the code is, in numbers: of this package, and side by side of any other.

    python tests/measure_style.py                      this package and its notebooks
    python tests/measure_style.py PACKAGE_FOLDER ...   other packages, without notebooks

The numbers are a mirror, not the aim. Only `ast` is needed."""
import ast, json, sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
FUNCTIONS = DEFINITIONS[:2]

def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

def body_lines(function, lines):
    "Numbers of a function's lines that hold code: no signature, docstring, comment or blank line."
    body = [node for node in function.body if not is_docstring(node)]
    numbers = {n for node in body for n in range(node.lineno, node.end_lineno + 1)}
    return {n for n in numbers if lines[n-1].strip() and not lines[n-1].strip().startswith('#')}

def body_nodes(function):
    "How many nodes the syntax tree of a function's body has."
    body = [node for node in function.body if not is_docstring(node)]
    return sum(1 for node in body for _ in ast.walk(node))

def outer_functions(tree):
    "Functions and methods; those inside of another function belong to it."
    for node in tree.body:
        if isinstance(node, FUNCTIONS): yield node
        if isinstance(node, ast.ClassDef): yield from outer_functions(node)

def is_list_of_names(tree):
    "Whether a module opens with the `__all__` that nbdev writes, which it wraps in its own way."
    return len(tree.body) > 1 and isinstance(tree.body[1], ast.Assign) and tree.body[1].targets[0].id == '__all__'

def is_assigned(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)

def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0

def measure_package(folder):
    "The numbers of a package's modules."
    sizes, ternaries, wide, all_lines, modules = [], 0, 0, 0, {}
    nodes, code_lines, names = 0, 0, []
    for file in sorted(Path(folder).glob('*.py')):
        if file.name == '_modidx.py': continue
        text = file.read_text(encoding='utf-8')
        lines, tree = text.splitlines(), ast.parse(text)
        modules[file.name] = len(lines)
        all_lines += len(lines)
        made = range(tree.body[1].lineno, tree.body[1].end_lineno + 1) if is_list_of_names(tree) else ()
        wide += sum(len(line) > 120 for n,line in enumerate(lines, 1) if n not in made)
        ternaries += sum(isinstance(node, ast.IfExp) for node in ast.walk(tree))
        for function in outer_functions(tree):
            mine = body_lines(function, lines)
            sizes.append(len(mine))
            code_lines += len(mine)
            nodes += body_nodes(function)
            names += [node.id for node in ast.walk(function) if is_assigned(node)]
    biggest = max(modules, key=modules.get)
    return {'nodes a line': round(nodes / code_lines, 1),
            'lines over 120 columns, %': round(100 * wide / all_lines, 1),
            'ternaries per 100 lines': round(100 * ternaries / code_lines, 1),
            'one-letter locals, %': round(100 * sum(len(name) == 1 for name in names) / max(len(names), 1)),
            'function, median lines': median(sizes), 'function, p90 lines': percentile(sizes, .9),
            'function, most lines': max(sizes), 'modules': len(modules), f'biggest module ({biggest})': modules[biggest]}

def exported_cells(folder):
    "The exported cells of notebooks that hold more than imports."
    for file in sorted(Path(folder).glob('[0-9]*.ipynb')):
        for cell in json.loads(file.read_text(encoding='utf-8'))['cells']:
            source = ''.join(cell['source'])
            if cell['cell_type'] != 'code' or not source.startswith('#| export'): continue
            tree = ast.parse(source)
            if not all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body): yield source, tree

def measure_notebooks(folder):
    "The numbers of exported cells."
    cells = list(exported_cells(folder))
    lengths = [len(source.splitlines()) - 1 for source,_ in cells]
    counts = [sum(isinstance(node, DEFINITIONS) for node in tree.body) for _,tree in cells]
    with_some = [n for n in counts if n]
    return {'exported cells': len(cells), 'cell, median lines': median(lengths), 'cell, most lines': max(lengths),
            'functions a cell': round(sum(with_some) / len(with_some), 2)}

def main(folders):
    found = {Path(folder).name: measure_package(folder) for folder in folders}
    if not folders: found = {'coderank_qdrant': {**measure_package(ROOT/'coderank_qdrant'), **measure_notebooks(ROOT/'nbs')}}
    for name,measures in found.items():
        print(name)
        for what,value in measures.items(): print(f'  {what}: {value}')

if __name__ == '__main__': main(sys.argv[1:])
