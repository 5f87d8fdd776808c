"Pieces of documents: along their structure, within the size, with nothing lost and brackets in balance, in every language."
import hashlib, json, re, time
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from coderank_qdrant.chunking import CUTTER, chunk_tokenizer
from coderank_qdrant.grammars import GRAMMARS, grammar
from coderank_qdrant.languages import is_docs, language
from coderank_qdrant.pieces import cut_document
from coderank_qdrant.parts import bracket_pairs
from coderank_qdrant.grammars import parse

SIZE = 128
TOKENIZER = chunk_tokenizer()
def cut(text, path, size=SIZE): return cut_document(text, path, TOKENIZER, size)
def many(line, n=40): return '\n'.join(line.replace('@', str(i)) for i in range(n))

# A container with a method too large for a piece, and a small one after it: the method's opening, its first statement, its symbol
SAMPLES = {
    'python': ('a.py', 'class Ledger:\n    "Keeps."\n\n    @cached\n    def balance(self, offset):\n        "All."\n' + many('        row_@ = self.rows[@] + offset') + '\n        return row_0\n\n    def size(self): return len(self.rows)\n', 'def balance(self, offset):', 'row_0 =', 'class Ledger > def balance'),
    'javascript': ('a.js', 'export class Ledger {\n  balance(offset) {\n' + many('    if (this.rows[@]) { offset += this.rows[@]; }') + '\n    return offset;\n  }\n  size() { return this.rows.length; }\n}\n', 'balance(offset) {', 'this.rows[0]', 'class Ledger > balance'),
    'typescript': ('a.ts', 'export class Ledger {\n  balance(offset: number): number {\n' + many('    offset += this.rows[@];') + '\n    return offset;\n  }\n  size(): number { return this.rows.length; }\n}\n', 'balance(offset: number)', 'this.rows[0]', 'class Ledger > balance'),
    'tsx': ('a.tsx', 'export function List(props: Props) {\n' + many('  const row@ = props.rows[@];') + '\n  return <ul>{row0}</ul>;\n}\n', 'function List(props', 'row0 =', 'function List'),
    'jsx': ('a.jsx', 'export function List(props) {\n' + many('  const row@ = props.rows[@];') + '\n  return <ul>{row0}</ul>;\n}\n', 'function List(props', 'row0 =', 'function List'),
    'go': ('a.go', 'package a\n\n// Balance says it.\nfunc (l *Ledger) Balance(offset int) int {\n' + many('\toffset += l.rows[@]') + '\n\treturn offset\n}\n\nfunc Size(l *Ledger) int { return len(l.rows) }\n', 'Balance(offset int)', 'l.rows[0]', 'func Balance'),
    'rust': ('a.rs', 'impl Ledger {\n    /// Says it.\n    pub fn balance(&self, offset: i64) -> i64 {\n' + many('        let row@ = self.rows[@] + offset;') + '\n        row0\n    }\n    fn size(&self) -> usize { self.rows.len() }\n}\n', 'fn balance(&self', 'row0 =', 'impl Ledger > fn balance'),
    'java': ('A.java', 'public class Ledger {\n    @Override\n    public int balance(int offset) {\n' + many('        offset += rows[@];') + '\n        return offset;\n    }\n    int size() { return rows.length; }\n}\n', 'balance(int offset)', 'rows[0]', 'class Ledger > balance'),
    'c': ('a.c', '#include <stdio.h>\n\nint balance(int *rows, int offset) {\n' + many('    offset += rows[@];') + '\n    return offset;\n}\n\nint size(void) { return 3; }\n', 'balance(int *rows', 'rows[0]', 'balance'),
    'cpp': ('a.cpp', 'class Ledger {\npublic:\n    int balance(int offset) {\n' + many('        offset += rows[@];') + '\n        return offset;\n    }\n    int size() { return 3; }\n};\n', 'balance(int offset)', 'rows[0]', 'class Ledger > balance'),
    'csharp': ('a.cs', 'public class Ledger {\n    public int Balance(int offset) {\n' + many('        offset += rows[@];') + '\n        return offset;\n    }\n    int Size() { return 3; }\n}\n', 'Balance(int offset)', 'rows[0]', 'class Ledger > Balance'),
    'ruby': ('a.rb', 'class Ledger\n  def balance(offset)\n' + many('    offset += @rows[@]'.replace('@rows', 'rows')) + '\n    offset\n  end\n\n  def size\n    3\n  end\nend\n', 'def balance(offset)', 'rows[0]', 'class Ledger > def balance'),
    'php': ('a.php', '<?php\nclass Ledger {\n    function balance($offset) {\n' + many('        $offset += $this->rows[@];') + '\n        return $offset;\n    }\n    function size() { return 3; }\n}\n', 'balance($offset)', 'rows[0]', 'class Ledger > function balance'),
    'kotlin': ('a.kt', 'class Ledger {\n    fun balance(start: Int): Int {\n        var offset = start\n' + many('        offset += rows[@]') + '\n        return offset\n    }\n    fun size(): Int { return 3 }\n}\n', 'fun balance(start', 'var offset', 'class Ledger > fun balance'),
    'swift': ('a.swift', 'class Ledger {\n    func balance(start: Int) -> Int {\n        var offset = start\n' + many('        offset += rows[@]') + '\n        return offset\n    }\n    func size() -> Int { return 3 }\n}\n', 'func balance(start', 'var offset', 'class Ledger > func balance'),
    'scala': ('a.scala', 'class Ledger {\n  def balance(start: Int): Int = {\n    var offset = start\n' + many('    offset += rows(@)') + '\n    offset\n  }\n  def size: Int = 3\n}\n', 'def balance(start', 'var offset', 'class Ledger > def balance'),
    'bash': ('a.sh', '#!/bin/bash\nbalance() {\n' + many('  offset=$((offset + rows[@]))') + '\n  echo "$offset"\n}\nsize() { echo 3; }\n', 'balance() {', 'rows[0]', 'balance'),
    'lua': ('a.lua', 'function balance(rows, offset)\n' + many('  offset = offset + rows[@]') + '\n  return offset\nend\n\nfunction size() return 3 end\n', 'function balance(rows', 'rows[0]', 'function balance'),
    'html': ('a.html', '<html><body>\n' + many('<section id="s@"><h2>Part @</h2><p>Some words about it.</p></section>', 30) + '\n</body></html>\n', '<section id="s0">', 'Part 0', ''),
    'css': ('a.css', many('.row-@ { color: red; margin: @px; }', 60) + '\n', '.row-0', 'margin', ''),
    'sql': ('a.sql', many('CREATE TABLE t@ (id INT PRIMARY KEY, name TEXT);', 30) + '\n', 'CREATE TABLE t0', 'id INT', ''),
    'json': ('a.json', json.dumps({f'key{i}': {'name': f'n{i}', 'rows': [i, i + 1]} for i in range(40)}, indent=1), '"key0"', '"n0"', ''),
    'yaml': ('a.yaml', many('key@:\n  name: n@\n  rows: [@, 1]', 40) + '\n', 'key0:', 'n0', ''),
    'toml': ('a.toml', many('[table@]\nname = "n@"\nrows = [@, 1]', 40) + '\n', '[table0]', 'n0', ''),
    'cuda': ('a.cu', '__global__ void add(float *x, float *y) {\n' + many('    x[@] += y[@];') + '\n}\n', 'add(float', 'x[0]', '')}

def check(text, path, size=SIZE):
    "What holds for the pieces of any text; gives them."
    entries = cut(text, path, size)
    counts = [len(e.ids) for e in TOKENIZER.encode_batch([e['content'] for e in entries], add_special_tokens=False)]
    assert [e['token_count'] for e in entries] == counts and max(counts, default=0) <= size
    at, lost = 0, []
    for i,e in enumerate(entries):
        start, end, about = e['start_char'], e['end_char'], e['metadata']
        assert e['index'] == i and at <= start < end and e['content'].strip()
        closed = about.get('closed', '')
        assert e['content'] == text[start:end] + ('\n' + closed if closed else '')
        assert about['first_line'] == text[:start].count('\n') + 1
        assert about['last_line'] == text[:end].count('\n') + 1
        lost.append(text[at:start].replace(about.get('enclosed_by', '\0').strip(), ''))
        at = end
    lost.append(text[at:])
    return entries, ''.join(lost)

def only_closers(lost): return not re.sub(r'[\s)\]};,:>]', '', lost)

def test_every_grammar_has_a_sample_and_loads():
    assert set(SAMPLES) == set(GRAMMARS) and all(grammar(name) for name in GRAMMARS)
    assert all(language(path) == name for name,(path, *_) in SAMPLES.items())

@pytest.mark.parametrize('name', SAMPLES)
def test_a_large_definition_keeps_its_opening_and_first_statement(name):
    path, text, opening, first, symbol = SAMPLES[name]
    entries, lost = check(text, path)
    assert len(entries) > 2 and only_closers(lost), lost
    holding = [e for e in entries if opening in e['content']]
    assert len(holding) == 1 and first in holding[0]['content'], [e['content'][:80] for e in entries[:3]]
    if symbol: assert symbol in holding[0]['metadata']['symbol'] and symbol in entries[1]['metadata']['symbol'], [e['metadata'] for e in entries]

@pytest.mark.parametrize('name', SAMPLES)
def test_brackets_are_in_balance(name):
    path, text, *_ = SAMPLES[name]
    opening, closing = bracket_pairs(parse(text, name), text)
    for e in cut(text, path):
        inside = sorted([(at, 1) for at in opening if e['start_char'] <= at < e['end_char']] + [(at, -1) for at in closing if e['start_char'] <= at < e['end_char']])
        depth = 0
        for _,step in inside:
            depth += step
            assert depth >= 0, e['content']
        assert depth == len(e['metadata'].get('closed', '')), e['content']

@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(SAMPLES)), st.randoms(use_true_random=False))
def test_damaged_code_is_cut_all_the_same(name, rng):
    path, text, *_ = SAMPLES[name]
    text = text[:2000]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(['', '}', '{', '((', '"', "'''", '\n\n', '\u00e9\u4e2d', '\r\n', '\ufeff', '\t', '`', '#{', '0x']) + text[at + rng.randint(0, 30):]
    _, lost = check(text, path, 64)
    assert only_closers(lost.replace('\ufeff', '')), lost

@pytest.mark.parametrize('text', ['', ' \n\n', '\ufeff', 'x', 'x = 1\r\ny = 2\r\n', '\ufeffdef f(): pass\n', '\u00e9 = "\u4e2d\u6587"\n' * 40, '\ttab\n' * 50])
def test_odd_texts(text):
    for path in 'a.py', 'a.js', 'a.md', 'a.rst', 'a.txt', 'a.jl', 'a.ipynb': assert only_closers(check(text, path)[1].replace('\ufeff', ''))

@pytest.mark.parametrize('path,text', [('a.json', '[' * 5000 + ']' * 5000), ('a.py', '(' * 5000 + '1' + ')' * 5000), ('a.js', '{' * 5000 + 'x' + '}' * 5000), ('a.yaml', '\n'.join(' ' * i + 'a:' for i in range(500)))])
def test_deep_nesting(path, text):
    started = time.perf_counter()
    cut(text, path)
    assert time.perf_counter() - started < 20

@pytest.mark.parametrize('path,text', [('a.json', json.dumps(dict(data='QUJD' * 20000))), ('a.txt', 'a1,' * 300_000), ('a.min.js', 'a=1;' * 100_000)])
def test_an_unbroken_run_is_quick_and_few(path, text):
    started = time.perf_counter()
    entries = cut(text, path)
    assert len(entries) < 20 and time.perf_counter() - started < 20
    kept = sum(e['end_char'] - e['start_char'] for e in entries)
    if len(entries) > 1: assert sum(e['metadata'].get('characters_left_out', 0) for e in entries) + kept > .99 * len(text)

# The inputs of public reports

def test_files_of_other_languages_are_code():
    for name in 'a.dart', 'b.vue', 'c.mjs', 'd.ex', 'e.hs', 'f.tf', 'g.zig', 'Dockerfile', 'Makefile':
        assert language(name) and not is_docs(name)
        entry, = cut('x = 1\n', name)
        assert entry['content'] == 'x = 1' and entry['metadata']['language'] == language(name)

def test_a_notebook_is_its_cells():
    picture = 'iVBORw0KGgo' + 'QUJDREVGR0hJSktM' * 8000
    cells = [dict(cell_type='markdown', source=['# Title\n', '\n', 'Why this matters. ![](data:image/png;base64,' + picture + ')']),
             dict(cell_type='code', source=['def area(r):\n', '    return 3.14 * r**2\n'], outputs=[dict(output_type='display_data', data={'image/png': picture}), dict(text=['printed\n'])])]
    text = json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=cells))
    started = time.perf_counter()
    prose, code = cut(text, 'n.ipynb')
    assert time.perf_counter() - started < 1
    assert prose['content'].startswith('# Title') and code['content'].startswith('def area') and 'QUJD' not in prose['content'] + code['content']
    assert (prose['metadata']['cell_type'], code['metadata']['cell'], code['metadata']['language'], code['metadata']['headings']) == ('prose', 2, 'python', 'Title')
    assert 'printed' in cut_document(text, 'n.ipynb', TOKENIZER, SIZE, outputs=True)[1]['content'] and 'printed' not in code['content']

def test_a_large_method():
    body = '\n'.join(f'        total_{i} = self.rows[{i}] * {i} + offset  # step {i} of the ledger' for i in range(120))
    text = f'class Ledger:\n    "Keeps accounts."\n\n    @cached\n    def balance(self, offset):\n        "The balance."\n{body}\n        return total_0\n'
    entries, lost = check(text, 'ledger.py', 512)
    first = entries[0]['content']
    assert all(words in first for words in ('class Ledger', '@cached', 'def balance', '"The balance."', 'total_0 =')) and not lost.strip()
    assert all(e['metadata']['symbol'] == 'class Ledger > def balance' for e in entries)
    assert [e['metadata']['first_line'] for e in entries][0] == 1 and entries[-1]['metadata']['last_line'] == 127

def test_a_section_of_rst_does_not_end_with_a_heading():
    words = 'Some words about it that go on for a while. ' * 6
    text = f'First\n=====\n\n{words}\n\nSecond\n------\n\n{words}\n\nThird\n-----\n\n{words}\n'
    entries, lost = check(text, 'a.rst', 96)
    assert [e['metadata']['headings'] for e in entries] == ['First', 'First > Second', 'First > Third'] and not lost.strip()
    assert not any(re.search(r'[=-]{3,}\s*\Z', e['content']) for e in entries)

def test_javascript_has_its_braces():
    text = '\n\n'.join(f'export function handler{i}(req, res) {{\n  if (req.ok) {{\n    return res.send({{ id: {i}, name: "{i}" }});\n  }}\n  return res.status(404);\n}}' for i in range(40))
    entries, lost = check(text, 'a.js', 512)
    assert not lost.strip() and not any('closed' in e['metadata'] for e in entries)
    for e in entries: assert e['content'].count('{') == e['content'].count('}') and e['content'].startswith('export function')

def test_headings_and_fences_of_markdown():
    text = '# Guide\n\n' + 'Words here. ' * 30 + '\n\n## Install\n\n```bash\n# no heading\npip install x\n```\n\n' + 'More words. ' * 30 + '\n\n## Last\n'
    entries, lost = check(text, 'a.md', 96)
    assert not lost.strip() and {e['metadata']['headings'] for e in entries} >= {'Guide', 'Guide > Install'}
    assert sum('# no heading\npip install x' in e['content'] for e in entries) == 1
    assert not any(re.search(r'\n#+ [^\n]*\Z', e['content']) for e in entries[:-1])

PROSE = '# Ledger\n\n' + 'It keeps the balance of accounts. ' * 60 + '\n\n## Rows\n\n| name | value |\n|---|---|\n' + many('| row@ | @ |', 60) + '\n\n- ' + many('- item @ of a list\n', 30)[2:] + '\n```python\n' + many('x@ = @') + '\n```\n'
WIDE = 'class Ledger:\n    def balance(self,\n' + many('                row_@:int=@, # Row @') + '\n               ):\n        "All."\n        return row_0\n'
CUT = {4: '235fc6b27871'} # CUTTER: the beginning of a hash over what these documents become

def test_whoever_changes_how_documents_are_cut_raises_CUTTER():
    "Else trees from before keep their old pieces for documents that did not change. The new hash goes under the new number."
    documents = {path: text for path,text,*_ in SAMPLES.values()} | {'prose.md': PROSE, 'wide.py': WIDE}
    pieces = [[entry['content'], entry['metadata']] for path,text in documents.items() for size in (64, 128) for entry in cut(text, path, size)]
    assert CUT[CUTTER] == hashlib.sha256(json.dumps(pieces, sort_keys=True).encode()).hexdigest()[:12]
