"""Measure ranking: each rule alone and all together, ways of fusing, and weights halved and doubled, on questions made from code and docs.

    python tests/bench_ranking.py [--folder DIR] [--docs CHUNK_TREE] [--judged tests/judged.jsonl] [--part tables|weights|speed]

The code is of installed packages, with the docstrings taken out of their functions: the first sentence of one is a question, and the
function it was taken from is the answer. Names of functions and classes, and names of files, are questions too. Weights were looked at
with the packages of `SETTLED`; those of `CHECKED` are for a second look. What was embedded stays in DIR, so the second run is quick."""
import argparse, ast, random, re
from collections import defaultdict
from pathlib import Path, PurePosixPath
import numpy as np
from coderank_qdrant.chunking import chunk_tokenizer, chunk_tree, find_documents
from coderank_qdrant.index import index_run, read_lines, run_files
from coderank_qdrant.judged import make_queries, read_queries
from coderank_qdrant.pipeline import embed_corpus

SETTLED = 'fastcore,sentence-transformers'
CHECKED = 'tornado,click,httpx,starlette,jinja2'
CACHE = Path.home()/'.cache/coderank_qdrant_bench'

def docstring_nodes(tree):
    "Functions and classes with a docstring, each with the node of it."
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str): yield node, first

def first_sentence(text):
    "What a docstring begins with, without markup."
    plain = ' '.join(re.sub(r':\w+:`~?([^`]*)`|[`*]', r'\1', text.strip().split('\n\n')[0]).split())
    return re.split(r'(?<=[.!?])\s', plain)[0].rstrip('.: ')

def without_docstrings(source):
    "A module without its functions' docstrings; (name, first sentence) of each."
    lines, found = source.splitlines(keepends=True), []
    for node,doc in docstring_nodes(ast.parse(source)):
        found.append((node.name, first_sentence(doc.value.value)))
        if lines[doc.lineno-1].lstrip() != lines[doc.lineno-1][doc.col_offset:] or not lines[doc.lineno-1].isascii(): continue
        pad = lines[doc.lineno-1][:doc.col_offset]
        rest = lines[doc.end_lineno-1].encode()[doc.end_col_offset:].decode()
        for i in range(doc.lineno-1, doc.end_lineno): lines[i] = ''
        lines[doc.end_lineno-1] = f'{pad}...{rest}' if len(node.body) == 1 else (rest.lstrip(' ;') if rest.strip() else '')
    return ''.join(lines), found

def make_sources(packages, folder):
    "Packages' documents below a folder, docstrings taken out; (path, name, sentence) of each docstring."
    asked = []
    for rel,file in find_documents(f'installed:{packages}'):
        text = file.read_text(encoding='utf-8', errors='replace')
        if rel.suffix == '.py':
            try: text, found = without_docstrings(text)
            except SyntaxError: found = []
            asked += [(str(rel), *item) for item in found]
        target = folder/str(rel)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding='utf-8')
    return asked

def made_run(packages, folder):
    "The packages embedded: what was asked is kept beside it."
    import json
    if not (folder/'asked.json').exists():
        asked = make_sources(packages, folder/'src')
        chunk_tree(str(folder/'src'), folder/'tree', chunk_tokenizer())
        embed_corpus(folder/'tree', folder/'out', profile='offline', devices='cpu')
        (folder/'asked.json').write_text(json.dumps(asked))
    return json.loads((folder/'asked.json').read_text())

if __name__ == '__main__':
    for name,packages in ('settled', SETTLED), ('checked', CHECKED):
        asked = made_run(packages, CACHE/name)
        print(name, len(asked), asked[:2])
        print(index_run(CACHE/name/'out', CACHE/name/'index_old'))
