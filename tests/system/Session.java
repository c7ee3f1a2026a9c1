/* What tests/system/test_clients.py runs with pgjdbc; java compiles a single file by itself. */
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;

public class Session {
    static void check(Object expected, Object found) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    public static void main(String[] words) throws Exception {
        Properties settings = new Properties();
        for (int at = 1; at < words.length; at += 2) {
            settings.setProperty(words[at], words[at + 1]);
        }
        try (Connection connection = DriverManager.getConnection(words[0], settings);
                Statement statement = connection.createStatement()) {
            statement.execute("CREATE TEMP TABLE things (id int PRIMARY KEY, name text, data bytea)");
            connection.setAutoCommit(false);
            String insert = "INSERT INTO things VALUES (?, ?, ?)";
            try (PreparedStatement prepared = connection.prepareStatement(insert)) {
                for (int number = 0; number < 1000; number++) {
                    prepared.setInt(1, number);
                    prepared.setString(2, "thing \u00e4 " + number);
                    prepared.setBytes(3, new byte[] {(byte) number, 0});
                    prepared.addBatch();
                }
                check(1000, prepared.executeBatch().length);
            }
            connection.commit();
            /* A portal with a limit, re-used often enough that pgjdbc prepares it on the server. */
            try (PreparedStatement prepared = connection.prepareStatement("SELECT * FROM things WHERE id >= ?")) {
                prepared.setFetchSize(10);
                for (int round = 0; round < 10; round++) {
                    prepared.setInt(1, round);
                    int rows = 0;
                    try (ResultSet found = prepared.executeQuery()) {
                        while (found.next()) {
                            check("thing \u00e4 " + found.getInt(1), found.getString(2));
                            rows++;
                        }
                    }
                    check(1000 - round, rows);
                }
            }
            try {
                statement.execute("INSERT INTO things VALUES (1, 'again', NULL)");
                throw new AssertionError("inserted twice");
            } catch (SQLException error) {
                check("23505", error.getSQLState());
            }
            connection.rollback();
            /* Cancelled from another thread, on a second connection. */
            ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor();
            clock.schedule(() -> { statement.cancel(); return null; }, 500, TimeUnit.MILLISECONDS);
            try {
                statement.execute("SELECT pg_sleep(60)");
                throw new AssertionError("not cancelled");
            } catch (SQLException error) {
                check("57014", error.getSQLState());
            } finally {
                clock.shutdown();
            }
            connection.rollback();
            ResultSet counted = statement.executeQuery("SELECT count(*) FROM things");
            counted.next();
            System.out.println("counted " + counted.getInt(1));
        }
    }
}
