"""A small project of an imaginary bookshop: ten Markdown and ten Python files, on which the Quickstart is run.

    python nbs/_site/sample.py FOLDER"""
import sys
from pathlib import Path

FILES = {
'README.md': '''# Bookshop

A small shop for second-hand books. `shop/` has the code, `docs/` what the people who work here need to know.
''',
'docs/refunds.md': '''# Refunds

A customer may send a book back within 30 days of delivery.

## How the money goes back

Refunds are paid to the card or the account that the order was paid with, within five working days after the book has
arrived in the warehouse. Postage for the way back is ours if the book was damaged or the wrong one.
''',
'docs/backups.md': '''# Backups

The database is copied every night at two, to a second machine in another building.

## When the nightly backup fails

The job writes a line to `backup.log` and sends mail to the person on duty. Free some disk space, then start the job
again by hand: `python -m shop.backup`. Never delete the last good copy before the new one has been checked.
''',
'docs/opening_hours.md': '''# Opening hours

The shop is open from Tuesday to Saturday, 10 to 18 o'clock. In December it is open on Mondays as well.
''',
'docs/condition.md': '''# Grades of condition

- **As new**: unread, no marks.
- **Good**: read, the spine is whole.
- **Worn**: notes in the margins, or a loose page. The price is half.
''',
'docs/suppliers.md': '''# Suppliers

Most books come from house clearances. A supplier signs a receipt for each box, with a name and an address.
''',
'docs/newsletter.md': '''# Newsletter

Once a month. Only people who ticked the box get it, and every letter has a link to unsubscribe.
''',
'docs/returns_desk.md': '''# The desk for parcels

Parcels that come back are opened here and looked at. The grade of the book is written on a yellow slip.
''',
'docs/deployment.md': '''# Deployment

Push to the branch `live`. The server fetches it, runs the migrations, and restarts the workers one after the other, so
customers notice nothing. To go back, push the earlier commit.
''',
'docs/passwords.md': '''# Accounts and passwords

A forgotten password is reset with a link that is sent by mail and works once, for one hour. Passwords are stored
hashed.
''',
'shop/__init__.py': '"The code of the bookshop."\n',
'shop/shipping.py': '''"What it costs to send a parcel."

RATES = {'letter': 1.95, 'small': 3.90, 'large': 6.50}

def parcel_size(grams):
    "The kind of parcel for a weight."
    if grams <= 500: return 'letter'
    return 'small' if grams <= 2000 else 'large'

def shipping_cost(grams, country='DE'):
    "The shipping cost of a parcel; three times as much abroad."
    cost = RATES[parcel_size(grams)]
    return cost if country == 'DE' else 3 * cost
''',
'shop/cart.py': '''"What a customer wants to buy."

class Cart:
    "Books and how many of each."
    def __init__(self): self.items = {}

    def add(self, isbn, count=1): self.items[isbn] = self.items.get(isbn, 0) + count

    def total(self, prices): return sum(prices[isbn] * count for isbn, count in self.items.items())
''',
'shop/discounts.py': '''"Vouchers and discounts."

def apply_voucher(total, voucher):
    "The price after a voucher; never below zero."
    return max(total - voucher, 0)

def student_discount(total): return round(total * .9, 2)
''',
'shop/stock.py': '''"How many copies there are."

def in_stock(stock, isbn): return stock.get(isbn, 0) > 0

def take(stock, isbn):
    "Remove a copy that was sold."
    if not in_stock(stock, isbn): raise LookupError(f'{isbn} is sold out')
    stock[isbn] -= 1
''',
'shop/isbn.py': '''"Numbers of books."

def is_valid_isbn(isbn):
    "Whether the check digit of a 13-digit ISBN is right."
    digits = [int(c) for c in isbn if c.isdigit()]
    return len(digits) == 13 and sum(d * (1, 3)[i % 2] for i, d in enumerate(digits)) % 10 == 0
''',
'shop/invoice.py': '''"Invoices as text."

def invoice(order, rate=.07):
    "An invoice with the VAT of books."
    net = order['total'] / (1 + rate)
    return f"Order {order['number']}: {net:.2f} net, {order['total'] - net:.2f} VAT"
''',
'shop/backup.py': '''"Copies of the database."
import shutil

def copy_database(source, target):
    "Copy the file aside, then move it into place."
    part = f'{target}.part'
    shutil.copyfile(source, part)
    shutil.move(part, target)
''',
'shop/mail.py': '''"Letters to customers."

def greeting(name): return f'Dear {name},' if name else 'Good day,'
''',
'shop/search.py': '''"Find books by words of their titles."

def find_books(catalogue, words):
    "The titles that have all the words."
    wanted = words.lower().split()
    return [title for title in catalogue if all(word in title.lower() for word in wanted)]
'''}

def make_folder(folder):
    "Write the files into a folder."
    for name,text in FILES.items():
        file = Path(folder)/name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding='utf-8')

if __name__ == '__main__': make_folder(sys.argv[1])
