"""Measure pieces of code: what is cut whole, what is not, beside semantic-text-splitter.

    python tests/measure_pieces.py [PACKAGE ...] [--size 512]

Over the Python files of installed packages (fastcore and sentence-transformers by default): functions that fit into a piece
and are whole in one; larger ones whose opening, docstring and first statement are in one piece, where these fit; pieces that are only an
opening; pieces over the size; pieces whose brackets are not in balance; seconds."""
import argparse, ast, time
from pathlib import Path
import numpy as np
from coderank_qdrant.chunking import chunk_tokenizer, find_documents
from coderank_qdrant.grammars import char_positions, parse
from coderank_qdrant.parts import bracket_tokens
from coderank_qdrant.pieces import cut_document

def split_before(text, path, tokenizer, size):
    "What semantic-text-splitter makes of it."
    import tree_sitter_python
    from semantic_text_splitter import CodeSplitter
    cut = CodeSplitter.from_huggingface_tokenizer(tree_sitter_python.language(), tokenizer, size)
    pieces = [(start, piece) for start,piece in cut.chunk_indices(text) if piece.strip()]
    counts = [len(e.ids) for e in tokenizer.encode_batch([piece for _,piece in pieces], add_special_tokens=False)]
    return [dict(content=piece, start_char=start, end_char=start + len(piece), token_count=n) for (start,piece),n in zip(pieces, counts, strict=True)]

def functions_of(text):
    "For each function: its stretch of characters, and the end of its first statement that is no docstring."
    starts = np.cumsum([0] + [len(line) for line in text.splitlines(keepends=True)])
    lines = text.splitlines(keepends=True)
    def at(line, column): return int(starts[line-1]) + len(lines[line-1].encode()[:column].decode())
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        first = node.body[1] if len(node.body) > 1 and ast.get_docstring(node, clean=False) is not None else node.body[0]
        top = node.decorator_list[0] if node.decorator_list else node
        simple = not hasattr(first, 'body')
        yield at(top.lineno, top.col_offset), at(node.end_lineno, node.end_col_offset), at(first.end_lineno, first.end_col_offset) if simple else at(first.lineno, first.col_offset)

def brackets_of(text):
    "(position, bracket) of a file's brackets outside strings and comments; empty where they are not in balance."
    chars, found = char_positions(text), []
    for node in bracket_tokens(parse(text, 'python')):
        found.append((node.start_byte if chars is None else int(chars[node.start_byte]), node.type[-1]))
    return found if in_balance([bracket for _,bracket in found]) else []

def in_balance(brackets):
    "Whether every bracket is closed."
    depth = []
    for bracket in brackets:
        if bracket in '([{': depth.append(bracket)
        elif not depth or depth.pop() + bracket not in ('()', '[]', '{}'): return False
    return not depth

def is_opening(text):
    "Whether a piece is only decorators and an opening line."
    try: ast.parse(text.strip())
    except SyntaxError: pass
    else: return False
    lines = [line.strip() for line in text.strip().splitlines()]
    return lines[-1].endswith(':') and all(line.startswith(('@', 'def ', 'class ', 'async def ', '#')) for line in lines[:1]) and len(lines) < 4

def measure(documents, cut, tokenizer, size):
    "The figures of one way of cutting."
    whole = fitting = together = large = openings = over = unbalanced = pieces = 0
    took = 0.
    for path,text in documents:
        start = time.perf_counter()
        entries = cut(text, path, tokenizer, size)
        took += time.perf_counter() - start
        spans = [(e['start_char'], e['end_char']) for e in entries]
        found = list(functions_of(text))
        sizes = [len(e.ids) for e in tokenizer.encode_batch([text[a:b] for a,b,_ in found], add_special_tokens=False)]
        for (a,b,first),n in zip(found, sizes, strict=True):
            inside = lambda end, a=a, spans=spans: any(s <= a and end <= e for s,e in spans)
            if n <= size: fitting, whole = fitting + 1, whole + inside(b)
            elif len(tokenizer.encode(text[a:first], add_special_tokens=False).ids) <= size: large, together = large + 1, together + inside(first)
        pieces += len(entries)
        openings += sum(is_opening(e['content']) for e in entries)
        over += sum(e['token_count'] > size for e in entries)
        known = brackets_of(text)
        for e in entries:
            inside = [bracket for at,bracket in known if e['start_char'] <= at < e['end_char']]
            unbalanced += not in_balance([*inside, *e.get('metadata', {}).get('closed', '')])
    return dict(pieces=pieces, whole=f'{whole/max(fitting, 1):.1%} of {fitting}', together=f'{together/max(large, 1):.1%} of {large}',
                openings=openings, over=over, unbalanced=unbalanced, seconds=round(took, 1))

def python_documents(packages):
    "The Python files of installed packages that can be parsed."
    for rel,file in find_documents('installed:' + ','.join(packages)).documents:
        if not str(rel).endswith('.py'): continue
        text = Path(file).read_text(encoding='utf-8', errors='replace')
        try: ast.parse(text)
        except SyntaxError: continue
        yield str(rel), text

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('packages', nargs='*', default=['fastcore', 'sentence-transformers'])
    p.add_argument('--size', type=int, default=512)
    args = p.parse_args()
    tokenizer, documents = chunk_tokenizer(), list(python_documents(args.packages))
    for name,cut in ('before', split_before), ('now', cut_document): print(name, measure(documents, cut, tokenizer, args.size), flush=True)

if __name__ == '__main__': main()
