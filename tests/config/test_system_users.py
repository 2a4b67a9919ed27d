"""
Users and groups.
"""

import pwd

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.system_users import Account, parse_account


class AccountTests(SynchronousTestCase):
    """
    As they are written.
    """

    def test_account_is_given_by_name_or_number(self) -> None:
        """
        By name or by number, with a group or with the user's own.
        """
        nobody = pwd.getpwnam("nobody")
        for text in ("nobody", str(nobody.pw_uid), nobody.pw_uid):
            self.assertEqual(Account("nobody", nobody.pw_uid, nobody.pw_gid), parse_account(text))
        self.assertEqual(Account("nobody", nobody.pw_uid, 12, "12"), parse_account("nobody:12"))
        self.assertEqual("nobody:12", str(parse_account("nobody:12")))
        self.assertEqual("nobody", str(parse_account(" nobody ")))

    def test_unknown_user_root_and_invalid_names_are_refused(self) -> None:
        """
        Nobody of this machine, root, and what is no name at all.
        """
        for value, told in (
            ("no-such-user", "'no-such-user' is no user of this machine"),
            ("nobody:no-such-group", "'no-such-group' is no group of this machine"),
            ("99999999999999999999", "is no user of this machine"),
            ("", "'' is no user of this machine"),
            ("root", "'root' is root; name a user and a group without privileges, as nobody"),
            ("nobody:0", "'nobody:0' is root"),
            (True, "True is not the name of a user"),
            (["nobody"], "is not the name of a user"),
        ):
            with self.assertRaises(ValueError) as raised:
                parse_account(value)
            self.assertIn(told, str(raised.exception))
