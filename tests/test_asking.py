"Asking in a terminal and in a notebook: places that editors open, colours where there is a terminal, code highlighted."
import io, json, re, sys
import pytest
from fastcore.basics import AttrDict
from coderank_qdrant import search as chapter
from coderank_qdrant.hits import HUES, INKS, Hits, code_kinds, hit_lines, hit_spot, stretch_parts
from coderank_qdrant.index import index_run
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.search import coderank_search, search, search_box

CLOSE = 'class Client:\n    def close(self):\n        "Close the connection, </script> and all."\n        return self.pool.end(1)  # for good\n'
ANSI = re.compile('\x1b\\[[0-9;]*m')

@pytest.fixture(scope='module')
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp('asking')
    pieces = {'code/client.py': [(CLOSE, dict(symbol='class Client', first_line=10, last_line=13)), ('def later():\n    pass\n', dict(first_line=20, last_line=21))],
              'guide/close.md': [('# Closing\n\nClose the connection when you are done with it.\n', dict(first_line=1, last_line=3))]}
    for path,texts in pieces.items():
        file = root/'corpus'/f'{path}_chunks.json'
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps([dict(content=text, metadata=dict(source=path, **more)) for text,more in texts]))
    index_run(embed_corpus(root/'corpus', root/'out', profile='offline', devices='cpu'), root/'index')
    return root/'index'

class Screen(io.StringIO):
    "Standard output that says that it is a terminal."
    def __init__(self, terminal=True):
        super().__init__()
        self.terminal = terminal
    def isatty(self): return self.terminal
    @property
    def buffer(self): return self
    def write(self, text): return super().write(text.decode() if isinstance(text, bytes) else text)

def shown(index, monkeypatch, *, terminal=True, env=(), rich=True, **options):
    for name in 'NO_COLOR', 'FORCE_COLOR': monkeypatch.delenv(name, raising=False)
    for name,value in {'TERM': 'xterm-256color', 'COLUMNS': '70', **dict(env)}.items(): monkeypatch.setenv(name, value)
    screen = Screen(terminal)
    if not rich: monkeypatch.setitem(sys.modules, 'rich.console', None)
    monkeypatch.setattr(sys, 'stdout', screen)
    coderank_search('close the connection', location=str(index), device='cpu', **options)
    monkeypatch.undo()
    return screen.getvalue()

def test_a_terminal_has_colours_places_and_lines(index, monkeypatch):
    text = shown(index, monkeypatch)
    plain = ANSI.sub('', text)
    assert '\x1b[1;36mcode/client.py:10\x1b[0m' in text, 'what editors open, in one piece'
    assert '  12         "Close the connection, </script> and all."' in plain and '  class Client  ' in plain
    assert re.search('guide/close.md:1 ', plain) and '# Closing Close the connection when' in plain
    assert re.search('\x1b\\[1;4;32mClose\x1b', text), 'a word of the question, in a string'

@pytest.mark.parametrize('how', [dict(terminal=False), dict(env=[('NO_COLOR', '1')]), dict(env=[('TERM', 'dumb')]), dict(rich=False)], ids=str)
def test_no_colours_where_nobody_wants_them(index, monkeypatch, how):
    text = shown(index, monkeypatch, **how)
    assert '\x1b' not in text and re.match(r'1\. \d\.\d{4}  corpus:\S+  \S+:\d+\n', text)

def test_rich_is_not_loaded_without_a_terminal(index):
    import conftest
    code = 'import sys; from coderank_qdrant.search import coderank_search; coderank_search("close", location=sys.argv[1], mode="sparse"); assert "rich.console" not in sys.modules'
    import subprocess
    done = subprocess.run([sys.executable, '-c', code, str(index)], capture_output=True, text=True, cwd=conftest.ROOT)
    assert done.returncode == 0 and 'client.py:10' in done.stdout, done.stderr

def test_files_and_json_are_plain_in_a_terminal_too(index, monkeypatch):
    assert sorted(shown(index, monkeypatch, files=True).splitlines()) == ['code/client.py:10', 'guide/close.md:1']
    found = json.loads(shown(index, monkeypatch, json=True))
    assert [*found[0]] == ['id', 'score', 'text', 'metadata', 'duplicates']

def test_a_long_path_and_a_long_line_stay_in_one_piece(monkeypatch):
    "A path is never broken; a line of code is cut at the edge."
    from rich.console import Console
    path = 'deep/' * 30 + 'a.py'
    hits = Hits([AttrDict(id='x', score=.5, text='close = ' + '1, ' * 200, metadata=dict(source=path, first_line=3, last_line=3), duplicates=['y'])])
    hits.query = 'close'
    screen = io.StringIO()
    hits.print_in(Console(file=screen, width=60, force_terminal=True, highlight=False))
    lines = ANSI.sub('', screen.getvalue()).splitlines()
    assert f'{path}:3' in lines[0] and '+1 copies' in lines[0] and len(lines[1]) <= 60 and lines[1].endswith('\u2026')

def test_nothing_of_a_text_acts_in_a_terminal(monkeypatch):
    from rich.console import Console
    nasty = '[red]x[/red] \x1b]0;title\x07 \u202etext [link=file:///etc]y[/link]'
    hits = Hits([AttrDict(id='x', score=.5, text=nasty, metadata=dict(source=f'{nasty}.py', first_line=1, last_line=1, symbol=nasty), duplicates=[])])
    hits.query = 'text'
    screen = io.StringIO()
    hits.print_in(Console(file=screen, width=200, force_terminal=True, highlight=False))
    text = ANSI.sub('', screen.getvalue())
    assert not {'\x1b', '\x07', '\u202e'} & {*text} and text.count('[red]x[/red]') == 3 and text.count('[link=file:///etc]y[/link]') == 3
    assert hit_lines(1, hits[0], 'text')[0].count('\x1b') == 0 and '\x1b' not in hit_spot(hits[0])

def test_code_is_highlighted_in_a_notebook(index):
    html = search('close the connection', index, device='cpu')._repr_html_()
    assert re.search('<span style="color:var\\(--jp-mirror-editor-keyword-color,#[0-9a-f]{6}\\)">class</span>', html)
    assert '<mark>Close</mark>' in html and '&lt;/script&gt;' in html and '</script>' not in html
    guide = html.split('guide/close.md')[1]
    assert 'var(--jp-mirror' not in guide, 'prose stays as it is'

def luminance(colour):
    parts = [int(colour[i:i+2], 16) / 255 for i in (1, 3, 5)]
    return sum(weight * (part / 12.92 if part <= .04045 else ((part + .055) / 1.055)**2.4) for weight,part in zip((.2126, .7152, .0722), parts, strict=True))

def test_colours_can_be_read_on_white_and_on_black():
    assert HUES.keys() == INKS.keys()
    for kind,colour in HUES.items(): assert (1.05) / (luminance(colour) + .05) >= 4.5 and (luminance(colour) + .05) / (luminance('#111111') + .05) >= 3.9, kind

@pytest.mark.parametrize('text,source', [('"' * 5000, 'a.py'), ('/*' * 5000, 'a.js'), ('\r\n\x00\ud7ff' * 500, 'a.rb'), ('<' * 5000, 'a.html'), ('{' * 9000, 'a.json'), ('x' * 30_000, 'a.c'), ('', 'a.py'), ('x', 'a.unknown')], ids=lambda v: v[:6])
def test_any_text_can_be_highlighted(text, source):
    "Broken code, one long line, foreign line ends: every character comes back, in its place, and soon."
    import time
    start = time.monotonic()
    kinds = code_kinds(text, source)
    assert ''.join(part for part,_,_ in stretch_parts(text, [(0, min(3, len(text)), 0)], kinds, 0, len(text))) == text
    assert time.monotonic() - start < 3

def test_the_search_box_has_facets_with_numbers_and_a_view_of_files(index):
    box = search_box(index, 'close the connection', device='cpu')
    assert box.subdir.options == (('everywhere', ''), ('code (2)', 'code'), ('guide (1)', 'guide'))
    assert box.kind.options == (('code and docs', ''), ('code (2)', 'code'), ('docs (1)', 'docs'))
    box.kind.value = 'docs'
    assert 'guide/close.md' in box.results.value and 'client.py' not in box.results.value
    box.view.value = 'files'
    assert '<li><code>guide/close.md:1</code></li>' in re.sub(r'\s+(?=<)', '', box.results.value)

def test_the_terminal_is_asked_each_time(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', Screen(False))
    assert chapter.colour_console() is None
